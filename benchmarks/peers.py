"""Outside recommenders on the very same split, judged by the same evaluator.

    python benchmarks/peers.py export --work WORK ciao.last-out    # writes WORK/peers/ciao.last-out
    PEERS/bin/python benchmarks/peer_recbole.py WORK/peers/ciao.last-out SASRec
    python benchmarks/peers.py judge --work WORK ciao.last-out recbole.SASRec
    python benchmarks/peers.py course --work WORK ciao.last-out recbole.SASRec

Each peer runs in an environment of its own, with its own training loop and its own selection on the
validation part; docs/benchmarks.md says how the environments are made. It reads the split, writes a
score of every item of the pool for every test event, and never sees the test part's items. `course`
judges what a peer scored after each of its epochs on the validation part (training.py reads it).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from cells import Cell, dataset_of, write_cell
from quality import STANDINGS

from crossfeed.data.dataset import Dataset, Part
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.files import write_json
from crossfeed.scorer import Floats, Histories, Ints, Moment

COURSES = Path(__file__).parent / "results" / "training"
PARTS = {"train": Part.TRAIN, "validation": Part.VALIDATION, "test": Part.TEST}


class Recorded:
    """Scores that were made elsewhere, given out by domain in the order of the events' times."""

    def __init__(
        self, name: str, scores: Floats, dataset: Dataset, *, part: Part = Part.TEST
    ) -> None:
        self.name = name
        events = dataset.events(part)
        domains = dataset.event_domain[events]
        sizes = np.diff(dataset.catalogue.offsets)[domains]
        if len(scores) != sizes.sum():
            raise SystemExit(f"{name}: {len(scores):,} scores, not {int(sizes.sum()):,}")
        ends, in_time = np.cumsum(sizes), np.argsort(dataset.event_time[events], kind="stable")
        self._rows = {
            domain: np.stack(
                [
                    scores[ends[row] - sizes[row] : ends[row]]
                    for row in in_time[domains[in_time] == domain]
                ]
            )
            for domain in np.unique(domains).tolist()
        }
        self._given = dict.fromkeys(self._rows, 0)

    def score(self, histories: Histories, domain: int, moment: Moment) -> Floats:
        """Return (B, N) the next B rows of the domain: `evaluate` asks for each once, in order."""
        first = self._given[domain]
        self._given[domain] = first + len(histories)
        return self._rows[domain][first : first + len(histories)]


def export(dataset: Dataset, folder: Path) -> None:
    """Write the split: users, items, domains and histories of every part; no item of the test."""
    arrays: dict[str, Ints] = {
        "pool_offsets": dataset.catalogue.offsets,
        "pool_known": np.diff(dataset.catalogue.offsets),
    }
    for name, part in PARTS.items():
        events = dataset.events(part)
        histories = dataset.histories(events, part)
        arrays[f"{name}_users"] = dataset.users_of(events)
        arrays[f"{name}_domains"] = dataset.event_domain[events].astype(np.int64)
        arrays[f"{name}_history"] = histories.items
        arrays[f"{name}_offsets"] = histories.offsets
        if part is not Part.TEST:
            arrays[f"{name}_items"] = dataset.event_item[events].astype(np.int64)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "split.npz", **arrays)  # type: ignore[arg-type]


def judge(dataset: Dataset, *, ground: str, peer: str, work: Path) -> None:
    """Evaluate the scores that a peer wrote, and keep the cell beside those of the benchmark."""
    folder = work / "peers" / ground
    about = json.loads((folder / f"{peer}.json").read_text("utf-8"))
    scorer = Recorded(peer, np.load(folder / f"{peer}.npy", mmap_mode="r"), dataset)
    cell = Cell.of(f"{ground}.{peer}.0")
    write_cell(cell, scorer=scorer, dataset=dataset, about=about, standings=STANDINGS)
    STANDINGS.write()


def course(dataset: Dataset, *, ground: str, peer: str, work: Path) -> None:
    """Judge a peer after each of its epochs, and keep it beside the benchmark of training."""
    folder = work / "peers" / ground / f"{peer}.course"
    epochs = json.loads((folder / "epochs.json").read_text("utf-8"))
    for number, epoch in enumerate(epochs, start=1):
        scores = np.load(folder / f"{number:03}.npy", mmap_mode="r")
        scorer = Recorded(peer, scores, dataset, part=Part.VALIDATION)
        found = evaluate(scorer, dataset, part=Part.VALIDATION)
        epoch["micro ndcg@10"] = found.micro["ndcg@10"]
        print(number, epoch, flush=True)
    facts = folder.parent / f"{peer}.json"
    ended = json.loads(facts.read_text("utf-8"))["stopped_by"] if facts.exists() else "interruption"
    write_json(
        COURSES / f"course.{ground}.{peer}.json",
        {
            "peer": peer,
            "stopped_by": ended,
            "dataset_hash": dataset.manifest["content_hash"],
            "epochs": epochs,
        },
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["export", "judge", "course"])
    parser.add_argument("--work", type=Path, required=True, help="folder of quality.py")
    parser.add_argument("ground", help="data.split")
    parser.add_argument("peer", nargs="?", help="name of the scores")
    given = parser.parse_args()
    dataset = dataset_of(given.work, *given.ground.split("."))
    if given.command == "export":
        export(dataset, given.work / "peers" / given.ground)
    else:
        command = judge if given.command == "judge" else course
        command(dataset, ground=given.ground, peer=given.peer, work=given.work)


if __name__ == "__main__":
    main()
