"""What full evaluation costs beside its floor, both timed in one process, in turn.

    python benchmarks/evaluation.py RUN [--repeats 3]

The floor is what no evaluation of a vector scorer can leave out: read the histories of the test
part, encode the users, multiply with the pool, take the top 10. Printed is the ratio of medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from crossfeed.data.dataset import Dataset, Part
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.model.network_scorer import NetworkScorer
from crossfeed.run import Run

_ROWS_AT_ONCE = 1024


def floor(scorer: NetworkScorer, dataset: Dataset) -> None:
    """Do the least that ranking the test part takes."""
    events = dataset.events(Part.TEST)
    items, moment = torch.from_numpy(scorer.item_vectors), dataset.end(Part.TRAIN)
    for domain in range(len(dataset.catalogue.domains)):
        own = events[dataset.event_domain[events] == domain]
        trained = dataset.catalogue.trained_rows(domain)
        biases = torch.from_numpy(scorer.item_biases(domain, moment))
        for first in range(0, len(own), _ROWS_AT_ONCE):
            histories = dataset.histories(own[first : first + _ROWS_AT_ONCE], Part.TEST)
            users = scorer.user_vectors(histories, np.full(len(histories), domain, np.int64))
            scores = biases.repeat(len(own[first : first + _ROWS_AT_ONCE]), 1)
            scores[:, : dataset.catalogue.trained[domain]] += (
                torch.from_numpy(users) @ items[trained].T
            )
            scores.topk(min(10, scores.shape[1]), dim=1)


def seconds(action: Callable[[], object]) -> float:
    """Return how long an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def main() -> None:
    """Time both in turn and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    run = Run.open(given.run)
    dataset, scorer = run.dataset(), run.scorer()
    floor(scorer, dataset)  # the first pass pays for reading files
    floors, whole = [], []
    for _ in range(given.repeats):
        floors.append(seconds(lambda: floor(scorer, dataset)))
        whole.append(seconds(lambda: evaluate(scorer, dataset)))
    ratio = statistics.median(whole) / statistics.median(floors)
    print(f"{len(dataset.events(Part.TEST)):,} events: evaluation takes {ratio:.2f} x the floor")
    print("floor  s", " ".join(f"{value:.2f}" for value in floors))
    print("whole  s", " ".join(f"{value:.2f}" for value in whole))


if __name__ == "__main__":
    main()
