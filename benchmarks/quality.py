"""The quality benchmark: every scorer on every data set and split, judged by one evaluator.

    python benchmarks/quality.py run --work WORK [--only ciao.last-out] [--jobs 2]
    python benchmarks/quality.py table

A cell is (data, split, scorer, seed). Each runs in a process of its own, so that its peak memory
is its own, and ends as one JSON file in benchmarks/results/quality, which is committed; a cell
that has its file is not run again, so an interrupted benchmark goes on where it stopped. At the
end the mean over the seeds of each scorer is judged with 95% intervals by user, and crossfeed is
compared with it. Selection sees the validation part alone; each cell reads the test part once.
Data lies in CROSSFEED_DATA.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from quality_table import PAGE, RESULTS, table, write_page, write_standings

from crossfeed.config import load_config
from crossfeed.data.dataset import Dataset, Part
from crossfeed.data.prepare import prepare
from crossfeed.data.simulate import simulate
from crossfeed.evaluation.baselines import BASELINES
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.evaluation.outcomes import write_outcomes
from crossfeed.experiments.narrow import train_alone
from crossfeed.experiments.tuning import tune_baseline
from crossfeed.files import write_json
from crossfeed.run import Run
from crossfeed.scorer import Scorer
from crossfeed.training.trainer import train

ROOT = Path(__file__).parents[1]

SPLITS = ("last-out", "temporal", "new-in-domain")
NETWORKS = ("translation", "shared-bottom", "mmoe", "ple", "star", "pepnet")
"""Multi-domain networks without the adversary, `model.discriminator` of each."""
SEEDED = ("crossfeed", "alone", *NETWORKS)
SEEDS = {"ciao": (0, 1, 2), "movielens": (0,), "simulated": (0,)}


@dataclass(frozen=True)
class Cell:
    """One scorer with one seed on one split of one data set."""

    data: str
    split: str
    scorer: str
    seed: int

    @property
    def name(self) -> str:
        """Return the name of the cell's file and folder."""
        return f"{self.data}.{self.split}.{self.scorer}.{self.seed}"

    @property
    def file(self) -> Path:
        """Return where the cell's result lies when it is done."""
        return RESULTS / f"{self.name}.json"


def cells() -> Iterator[Cell]:
    """Yield all cells, the cheap ones of each data set first."""
    for data, seeds in SEEDS.items():
        for split in SPLITS:
            for scorer in BASELINES:
                yield Cell(data, split, scorer, 0)
        for seed in seeds:
            for split in SPLITS:
                for scorer in SEEDED:
                    yield Cell(data, split, scorer, seed)


def run(work: Path, *, only: str, jobs: int) -> None:
    """Run all cells that have no result yet, `jobs` at a time."""
    todo = [cell for cell in cells() if cell.name.startswith(only) and not cell.file.exists()]
    for data, split in dict.fromkeys((cell.data, cell.split) for cell in todo):
        dataset_of(work, data, split)  # prepared once, before several cells need it
    with ThreadPoolExecutor(jobs) as pool:
        for line in pool.map(lambda cell: _run_apart(cell, work), todo):
            print(line, flush=True)
    write_standings(work)


def _run_apart(cell: Cell, work: Path) -> str:
    command = [sys.executable, __file__, "cell", cell.name, "--work", str(work)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (work / f"{cell.name}.log").open("w") as log:
        code = subprocess.run(command, stderr=log, stdout=log, env=environment).returncode
    return f"{cell.name}: {'done' if code == 0 else f'failed, see {log.name}'}"


def run_cell(cell: Cell, work: Path) -> None:
    """Fit, select and judge one scorer, and write its result."""
    dataset = dataset_of(work, cell.data, cell.split)
    scorer, about = _fitted(cell, dataset, work)
    began = time.perf_counter()
    results = evaluate(scorer, dataset)
    write_outcomes(work / f"{cell.name}.outcomes.parquet", [results.outcomes])
    write_json(
        cell.file,
        {
            **asdict(cell),
            **about,
            "evaluate_seconds": round(time.perf_counter() - began, 1),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "dataset_hash": dataset.manifest["content_hash"],
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread per cell",
            "results": results.to_json(),
        },
    )


def _fitted(cell: Cell, dataset: Dataset, work: Path) -> tuple[Scorer, dict[str, object]]:
    """Return the cell's scorer, and what fitting it cost."""
    if cell.scorer in BASELINES:
        return _tuned(cell.scorer, dataset)
    plain = cell.scorer in NETWORKS
    settings = [f"model.discriminator={cell.scorer}"] if plain else []
    config = load_config(
        overrides=[f"train.seed={cell.seed}", *settings],
        preset="no-adversary" if plain else None,
    )
    out = work / cell.name
    if cell.scorer == "alone":
        scorer: Scorer = train_alone(dataset, out=out, config=config)
        runs = [Run.open(each) for each in sorted(out.iterdir())]
        return scorer, {"fit_seconds": round(sum(map(_seconds, runs)), 1)}
    trained = train(dataset, out=out, config=config, resume=True)
    return trained.scorer(), _training_facts(trained, dataset)


def _tuned(name: str, dataset: Dataset) -> tuple[Scorer, dict[str, object]]:
    began = time.perf_counter()
    tuned = tune_baseline(name, dataset)
    return tuned.scorer, {
        "fit_seconds": round(time.perf_counter() - began, 1),
        "settings": tuned.settings,
        "trials": {trial.settings: trial.value for trial in tuned.trials},
    }


def _training_facts(trained: Run, dataset: Dataset) -> dict[str, object]:
    epochs = trained.metrics()
    seconds = _seconds(trained)
    best = max(epochs, key=lambda epoch: float(epoch["validation"]["micro"]["ndcg@10"]))
    weights = trained.read_checkpoint("best")["players"]
    return {
        "epochs": len(epochs),
        "best_epoch": best["epoch"],
        "validation": best["validation"],
        "fit_seconds": round(seconds, 1),
        "clicks_per_second": round(len(epochs) * len(dataset.events(Part.TRAIN)) / seconds),
        "parameters": sum(
            value.numel()
            for name, value in weights.items()
            if trained.config.has_generator or name.startswith("discriminator.")
        ),
    }


def _seconds(trained: Run) -> float:
    """Return what training took, validation apart; a run that was resumed counts whole."""
    return sum(float(epoch["seconds"]) for epoch in trained.metrics())


def dataset_of(work: Path, data: str, split: str) -> Dataset:
    """Return a data set under a split, prepared once."""
    out = work / f"{data}.{split}.dataset"
    if out.exists():
        return Dataset.load(out)
    shared = Path(os.environ.get("CROSSFEED_DATA", ""))
    settings = [f"data.split={split}"]
    if data == "simulated":
        log = work / "simulated.parquet"
        if not log.exists():
            simulate(log)
        return prepare(log, out=out, config=load_config(overrides=settings).data)
    if not os.environ.get("CROSSFEED_DATA"):
        sys.exit("CROSSFEED_DATA is not set: it names the folder with ciao/ and movielens-100k/")
    config = load_config(ROOT / "examples" / f"{data}.toml", overrides=settings).data
    if data == "ciao":
        return prepare(shared / "ciao" / "ratings.parquet", out=out, config=config)
    return prepare(shared / "movielens-100k", source="movielens-100k", out=out, config=config)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    everything = commands.add_parser("run", help="run the cells that have no result yet")
    everything.add_argument("--only", default="", help="beginning of the cells' names")
    everything.add_argument("--jobs", type=int, default=1, help="cells at a time, a thread each")
    one = commands.add_parser("cell", help="run one cell")
    one.add_argument("name", help="data.split.scorer.seed")
    shown = commands.add_parser("table", help="print the results so far")
    shown.add_argument("--write", action="store_true", help="put them into docs/benchmarks.md")
    for command in (everything, one):
        command.add_argument("--work", type=Path, required=True, help="folder for data and runs")
    given = parser.parse_args()
    if given.command == "table":
        write_page(PAGE) if given.write else print(table())
        return
    given.work.mkdir(parents=True, exist_ok=True)
    if given.command == "run":
        run(given.work, only=given.only, jobs=given.jobs)
    else:
        data, split, scorer, seed = given.name.split(".")
        run_cell(Cell(data, split, scorer, int(seed)), given.work)


if __name__ == "__main__":
    main()
