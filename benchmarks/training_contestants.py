"""One contestant of the benchmark of training, in a process of its own.

    python benchmarks/training_contestants.py crossfeed|plain|competent DATA STEPS [--set k=v ...]

DATA is a prepared dataset, or `items=100000,domains=8,known=4`: clicks of 20,000 users who know 4
of 8 domains, drawn in memory so that a catalogue can have any size. Prints what STEPS steps of the
adversarial training took, batches included, after WARM steps that are not counted, as JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from padded_port import PORTS, rows

from crossfeed.config import Config, load_config
from crossfeed.data.dataset import Dataset
from crossfeed.run import Run
from crossfeed.scorer import Catalogue
from crossfeed.training.loop.trainer import Fit

__all__ = ["Enough", "LimitedFit", "Stopwatch", "limited_fit", "load"]

WARM = 3
"""Steps before those that are counted, or as many as are counted if those are fewer."""
USERS = 20_000
EVENTS_PER_USER = 40


class Enough(Exception):
    """As many steps as were asked for have been made."""


class Stopwatch:
    """Counts steps, and times those after the first ones."""

    def __init__(self, steps: int, *, warm: int = WARM) -> None:
        self.steps, self.warm, self.done = steps, warm, 0
        self.wall = self.processor = 0.0

    def tick(self) -> None:
        """Note the end of a step.

        Raises:
            Enough: it was the last one.
        """
        self.done += 1
        if self.done == self.warm:
            self._began = time.perf_counter(), time.process_time()
        if self.done == self.warm + self.steps:
            self.wall = time.perf_counter() - self._began[0]
            self.processor = time.process_time() - self._began[1]
            raise Enough


class LimitedFit(Fit):
    """A fit that ends after a number of steps, all of them adversarial."""

    stopwatch: Stopwatch

    def _step(self, *given: Any) -> None:  # Any: a batch, whatever the fit makes of it
        super()._step(*given)
        self.stopwatch.tick()


def limited_fit(dataset: Dataset, config: Config, stopwatch: Stopwatch, out: Path) -> LimitedFit:
    """Return a fit that has not begun."""
    run = Run.create(out, dataset=dataset, config=config, overwrite=True)
    fit = LimitedFit(run, dataset, stage="train", epochs=config.train.epochs, selects=True)
    fit.stopwatch = stopwatch
    return fit


def load(name: str) -> Dataset:
    """Open a dataset, or draw one."""
    if "items=" not in name:
        return Dataset.load(name)
    return _draw(**{key: int(value) for key, value in (p.split("=") for p in name.split(","))})


def _draw(*, items: int, domains: int, known: int) -> Dataset:
    """Return a dataset in memory: `known` of the domains per user, few items with most clicks."""
    rng = np.random.default_rng(0)
    own = rng.permuted(np.tile(np.arange(domains), (USERS, 1)), axis=1)[:, :known]
    choice = rng.integers(known, size=(USERS, EVENTS_PER_USER))
    domain = np.take_along_axis(own, choice, axis=1).ravel()
    size = items // domains
    item = domain * size + (size * rng.random(len(domain)) ** 3).astype(np.int64)
    user = np.repeat(np.arange(USERS), EVENTS_PER_USER)
    _, firsts = np.unique(user * items + item, return_index=True)
    kept = np.sort(firsts)  # no click twice
    user, item, domain = user[kept], item[kept], domain[kept]
    return Dataset(
        path=Path(f"{items}-{domains}-{known}"),
        manifest={"content_hash": f"drawn-{items}-{domains}-{known}", "config": {}},
        catalogue=Catalogue(
            tuple(f"domain-{number}" for number in range(domains)),
            np.arange(domains + 1) * size,
            np.full(domains, size),
        ),
        trained_on_all=np.full(domains, size),
        item_clicks=np.bincount(item, minlength=size * domains),
        user_offsets=np.searchsorted(user, np.arange(USERS + 1)),
        event_item=item.astype(np.int32),
        event_domain=domain.astype(np.int32),
        event_time=np.arange(len(item)),
        event_part=np.zeros(len(item), np.uint8),
    )


def run_crossfeed(dataset: Dataset, config: Config, stopwatch: Stopwatch) -> None:
    """Train as `crossfeed train` does."""
    with tempfile.TemporaryDirectory() as out:
        limited_fit(dataset, config, stopwatch, Path(out) / "run").go_on()


def run_port(name: str, dataset: Dataset, config: Config, stopwatch: Stopwatch) -> None:
    """Train one of the padded ports."""
    torch.manual_seed(config.train.seed)
    port = PORTS[name](dataset, config)
    for batch in rows(dataset, config):
        port.step(batch)
        stopwatch.tick()


def measure(contestant: str, data: str, steps: int, settings: Sequence[str]) -> dict[str, float]:
    """Run a contestant; return events per second and memory."""
    dataset = load(data)
    config = load_config(overrides=["train.warmup_epochs=0", *settings])
    stopwatch = Stopwatch(steps, warm=min(WARM, steps))
    try:
        if contestant == "crossfeed":
            run_crossfeed(dataset, config, stopwatch)
        else:
            run_port(contestant, dataset, config, stopwatch)
    except Enough:
        pass
    events = steps * config.train.batch_size
    return {
        "events_per_second": round(events / stopwatch.wall, 1),
        "events_per_processor_second": round(events / stopwatch.processor, 1),
        "step_seconds": round(stopwatch.processor / steps, 5),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """Read the command line and print what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("contestant", choices=["crossfeed", *PORTS])
    parser.add_argument("data")
    parser.add_argument("steps", type=int)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    given = parser.parse_args()
    print(json.dumps(measure(given.contestant, given.data, given.steps, given.settings)))


if __name__ == "__main__":
    main()
