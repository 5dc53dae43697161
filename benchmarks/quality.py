"""The quality benchmark: every scorer on every data set and split, judged by one evaluator.

    python benchmarks/quality.py run --work WORK [--only ciao.last-out] [--jobs 2]
    python benchmarks/quality.py table [--write]

The mean over the seeds of each scorer is judged with 95% intervals by user, and crossfeed is
compared with it. Selection sees the validation part alone; each cell reads the test part once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from cells import Cell, dataset_of, run_cells, seconds, training_facts, write_cell
from standings import Standings, parser_of

from crossfeed.config import Config, load_config
from crossfeed.data.dataset import Dataset
from crossfeed.evaluation.baselines import BASELINES
from crossfeed.run import Run
from crossfeed.scorer import Scorer
from crossfeed.studies.baseline_tuning import tune_baseline
from crossfeed.studies.narrow import train_alone
from crossfeed.training.loop.trainer import train

STANDINGS = Standings("quality", ours="crossfeed", part="test")

SPLITS = ("last-out", "temporal", "new-in-domain")
NETWORKS = ("translation", "shared-bottom", "mmoe", "ple", "star", "pepnet")
"""Multi-domain networks without the adversary, `model.discriminator` of each."""
PUBLISHED = tuple(network for network in NETWORKS if network != "translation")
_NO_DEMAND = "-no-demand"
"""Ends the name of the row in which a published network has, as it was published, an item bias that
does not change with time."""
SEEDED = ("crossfeed", "alone", *NETWORKS)
SEEDS = {"ciao": (0, 1, 2), "movielens": (0,), "simulated": (0,)}


def cells() -> Iterator[Cell]:
    """Yield all cells: everything with one seed first, and what is cheap before what is not."""
    for seed in sorted({seed for seeds in SEEDS.values() for seed in seeds}):
        for data, seeds in SEEDS.items():
            for split in SPLITS if seed in seeds else ():
                for scorer in (*(BASELINES if seed == 0 else ()), *SEEDED):
                    yield Cell(data, split, scorer, seed)
    for split in ("last-out", "new-in-domain"):
        for network in PUBLISHED:
            yield Cell("ciao", split, network + _NO_DEMAND, 0)


def run_cell(cell: Cell, work: Path) -> None:
    """Fit, select and judge one scorer, and write its result."""
    dataset = dataset_of(work, cell.data, cell.split)
    scorer, about = _fitted(cell, dataset, work)
    write_cell(cell, scorer=scorer, dataset=dataset, about=about, standings=STANDINGS)


def _fitted(cell: Cell, dataset: Dataset, work: Path) -> tuple[Scorer, dict[str, object]]:
    """Return the cell's scorer, and what fitting it cost."""
    if cell.scorer in BASELINES:
        return _tuned(cell.scorer, dataset)
    config = _config(cell)
    out = work / cell.name
    if cell.scorer == "alone":
        scorer: Scorer = train_alone(dataset, out=out, config=config)
        runs = [Run.open(each) for each in sorted(out.iterdir())]
        return scorer, {"fit_seconds": round(sum(map(seconds, runs)), 1)}
    trained = train(dataset, out=out, config=config, resume=True)
    return trained.scorer(), training_facts(trained, dataset)


def _config(cell: Cell) -> Config:
    network = cell.scorer.removesuffix(_NO_DEMAND)
    settings = [f"train.seed={cell.seed}"]
    if network not in NETWORKS:
        return load_config(overrides=settings)
    settings.append(f"model.discriminator={network}")
    if network != cell.scorer:
        settings += ["model.demand=false", "model.id_bias=true"]
    return load_config(overrides=settings, preset="no-adversary")


def _tuned(name: str, dataset: Dataset) -> tuple[Scorer, dict[str, object]]:
    began = time.perf_counter()
    tuned = tune_baseline(name, dataset)
    return tuned.scorer, {
        "fit_seconds": round(time.perf_counter() - began, 1),
        "settings": tuned.settings,
        "trials": {trial.settings: trial.value for trial in tuned.trials},
    }


def main() -> None:
    """Read the command line."""
    given = parser_of((__doc__ or "").splitlines()[0]).parse_args()
    if given.command == "table":
        STANDINGS.write_page() if given.write else print(STANDINGS.table())
    elif given.command == "cell":
        run_cell(Cell.of(given.name), given.work)
    else:
        run_cells(cells(), standings=STANDINGS, work=given.work, only=given.only, jobs=given.jobs)


if __name__ == "__main__":
    main()
