"""What the benchmarks of quality share: cells, each in a process of its own, and their results.

A cell is (data, split, scorer, seed). It ends as one JSON file, which is committed; a cell that has
its file is not run again, so an interrupted benchmark goes on where it stopped. Data lies in
CROSSFEED_DATA.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from standings import Standings

from crossfeed.config import load_config
from crossfeed.data.dataset import Dataset, Part
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.data.simulate.clicks import simulate
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.files import write_json
from crossfeed.run import Run
from crossfeed.scorer import Scorer

__all__ = ["Cell", "dataset_of", "run_cells", "seconds", "training_facts", "write_cell"]

ROOT = Path(__file__).parents[1]

SIMULATED: Mapping[str, tuple[Callable[[Path], object], Sequence[str]]] = {
    "simulated": (simulate, ()),
    "reduced": (partial(simulate, users=2_500, items=1_500, events=75_000), ()),
    "sparse": (
        partial(simulate, users=6_000, items=500_000, events=800_000, seed=1),
        ("data.min_item_events=1",),
    ),
}
"""Name -> what writes the log, and settings.

A dense log, the same with fewer of all, and one of items with a click or two.
"""


@dataclass(frozen=True)
class Cell:
    """One scorer with one seed on one split of one data set."""

    data: str
    split: str
    scorer: str
    seed: int

    @classmethod
    def of(cls, name: str) -> Cell:
        """Return the cell of a name."""
        data, split, rest = name.split(".", 2)
        scorer, seed = rest.rsplit(".", 1)
        return cls(data, split, scorer, int(seed))

    @property
    def name(self) -> str:
        """Return the name of the cell's file and folder."""
        return f"{self.data}.{self.split}.{self.scorer}.{self.seed}"


def run_cells(
    cells: Iterable[Cell], *, standings: Standings, work: Path, only: str, jobs: int
) -> None:
    """Run all cells that have no result yet, `jobs` at a time, by this script's `cell` command."""
    todo = [cell for cell in cells if cell.name.startswith(only) and not standings.has(cell.name)]
    work.mkdir(parents=True, exist_ok=True)
    for data, split in dict.fromkeys((cell.data, cell.split) for cell in todo):
        dataset_of(work, data, split)  # prepared once, before several cells need it
    with ThreadPoolExecutor(jobs) as pool:
        for line in pool.map(lambda cell: _run_apart(cell, work), todo):
            print(line, flush=True)
    standings.write()


def write_cell(
    cell: Cell,
    *,
    scorer: Scorer,
    dataset: Dataset,
    about: dict[str, object],
    standings: Standings,
) -> None:
    """Judge a scorer on the part that the benchmark reads, once, and keep what came of it."""
    began = time.perf_counter()
    results = evaluate(scorer, dataset, part=Part[standings.part.upper()])
    standings.keep_outcomes(cell.name, results.outcomes)
    write_json(
        standings.results / f"{cell.name}.json",
        {
            **asdict(cell),
            "evaluate_seconds": round(time.perf_counter() - began, 1),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "dataset_hash": dataset.manifest["content_hash"],
            "machine": _machine(),
            **about,  # after the rest: of a scorer made elsewhere it knows the memory
            "results": results.to_json(),
        },
    )


def training_facts(trained: Run, dataset: Dataset) -> dict[str, object]:
    """Return what a training chose on validation and what it cost."""
    epochs = trained.metrics()
    fit_seconds = seconds(trained)
    best = max(epochs, key=lambda epoch: float(epoch["validation"]["micro"]["ndcg@10"]))
    weights = trained.read_checkpoint("best")["players"]
    return {
        "epochs": len(epochs),
        "best_epoch": best["epoch"],
        "validation": best["validation"],
        "fit_seconds": round(fit_seconds, 1),
        "clicks_per_second": round(len(epochs) * len(dataset.events(Part.TRAIN)) / fit_seconds),
        "parameters": sum(
            value.numel()
            for name, value in weights.items()
            if trained.config.has_generator or name.startswith("discriminator.")
        ),
    }


def seconds(trained: Run) -> float:
    """Return what training took, validation apart; a run that was resumed counts whole."""
    return sum(float(epoch["seconds"]) for epoch in trained.metrics())


def dataset_of(work: Path, data: str, split: str) -> Dataset:
    """Return a data set under a split, prepared once."""
    out = work / f"{data}.{split}.dataset"
    if out.exists():
        return Dataset.load(out)
    shared = Path(os.environ.get("CROSSFEED_DATA", ""))
    settings = [f"data.split={split}"]
    if data in SIMULATED:
        log, (write, more) = work / f"{data}.parquet", SIMULATED[data]
        if not log.exists():
            write(log)
        return prepare(log, out=out, config=load_config(overrides=[*settings, *more]).data)
    if not os.environ.get("CROSSFEED_DATA"):
        sys.exit("CROSSFEED_DATA is not set: it names the folder with ciao/ and movielens-100k/")
    config = load_config(ROOT / "examples" / f"{data}.toml", overrides=settings).data
    if data == "ciao":
        return prepare(shared / "ciao" / "ratings.parquet", out=out, config=config)
    return prepare(shared / "movielens-100k", source="movielens-100k", out=out, config=config)


def _machine() -> str:
    processor = f"{platform.machine()}, {os.cpu_count()} cores, 1 thread per cell"
    if not torch.cuda.is_available():
        return processor
    return f"{processor}, {torch.cuda.get_device_name()} for networks, shared by several cells"


def _run_apart(cell: Cell, work: Path) -> str:
    command = [sys.executable, sys.argv[0], "cell", cell.name, "--work", str(work)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (work / f"{cell.name}.log").open("w") as log:
        code = subprocess.run(command, stderr=log, stdout=log, env=environment).returncode
    return f"{cell.name}: {'done' if code == 0 else f'failed, see {log.name}'}"
