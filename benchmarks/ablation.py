"""The ablation: what each part of the method is worth, with the same network on the same data.

    python benchmarks/ablation.py run --work WORK [--only ciao.last-out] [--jobs 2]
    python benchmarks/ablation.py table [--write]

Each row changes the default in one respect, or is a control without which an ensemble would pass
for a gain of the adversary. All rows are screened with one seed, on Ciao and a reduced simulated
log; those that decide are confirmed with three, on these, MovieLens and a simulated log of 500,000
items. The budget of a row is that of the default: at most 30 epochs (3 or 6 where one takes
minutes), stopped after 3 without a better validation; two networks that are summed are trained by
it one by one. Rows are judged on the validation part, where defaults are chosen; the test part is
not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cells import Cell, dataset_of, run_cells, seconds, training_facts, write_cell
from standings import Standings, parser_of

from crossfeed.config import Config, load_config
from crossfeed.data.dataset import Dataset
from crossfeed.run import Run
from crossfeed.scorer import Floats, Histories, Moment, Scorer
from crossfeed.training.loop.trainer import train

STANDINGS = Standings("ablation", ours="default", part="validation")

SPLITS = ("last-out", "new-in-domain")
SCREEN = ("ciao", "reduced")
"""Data on which every row is run with one seed."""
FINALISTS = ("default", "static-popularity", "likelihood-generator", "two-discriminators")
"""Rows that say what the adversary is worth."""
CONFIRM = ("ciao", "movielens", "reduced", "sparse")
"""Data on which the finalists are run with three seeds."""
SEEDS = (0, 1, 2)
BUDGETS: Mapping[tuple[str, str], Sequence[str]] = {
    ("sparse", "last-out"): ("train.epochs=3",),
    ("sparse", "new-in-domain"): ("train.epochs=6",),
}
"""Where an epoch takes minutes: the budget of every row."""
LATER = ("ciao", "movielens", "simulated")
"""Data on which demand is judged by clicks that are all later than training."""

_STATIC = (
    "model.fuse=none",
    "train.proposal_share=0",
    "train.reward_weight=0",
    "train.gap=none",
)

ROWS: Mapping[str, Sequence[str]] = {
    "default": (),
    # One network alone, on proposals that do not learn.
    "static-popularity": _STATIC,
    "static-uniform": (*_STATIC, "train.static_proposal=uniform"),
    # One network served, with the generator's proposals.
    "published": (
        "model.fuse=none",
        "train.objective=binary",
        "train.correction=0",
        "train.reward_weight=1",
    ),
    "corrected": ("model.fuse=none",),
    "half-corrected": ("model.fuse=none", "train.correction=0.5"),
    # Both consistent fused forms, beside the default's plain sum.
    "residual": ("model.fuse=residual",),
    "bias-removal": ("train.correction=0", "train.proposal_share=0.99"),
    # The terms of the target loss.
    "no-gap": ("train.gap=none",),
    "gap-kl": ("train.gap=kl",),
    "gap-euclidean": ("train.gap=euclidean",),
    "no-reward": ("train.reward_weight=0",),
    "reward-1": ("train.reward_weight=1",),
    # What is hidden of histories in training.
    "no-masking": ("model.mask_share=0",),
    "no-dropped-events": ("model.drop_share=0",),
    # Without what everybody does, and with a bias of each item that does not move.
    "no-demand": ("model.demand=false",),
    "id-bias": ("model.id_bias=true",),
    # The weights of the last step instead of their average.
    "no-average": ("train.average=0",),
    # The generator reads histories as the discriminator does.
    "attention-generator": ("model.generator=attention",),
    # Another network for the discriminator.
    "star-discriminator": ("model.discriminator=star",),
    # A quarter of Ciao's items, so that they share rows.
    "hashed": ("model.table_rows=2650",),
    # Controls: as many networks or parameters, no adversary.
    "likelihood-generator": (*_STATIC, "model.fuse=sum"),
    "two-discriminators": _STATIC,
    "full-softmax-wide": (*_STATIC, "train.objective=full-softmax", "model.width=128"),
    "two-full-softmax": (*_STATIC, "train.objective=full-softmax"),
}
"""Row -> how it differs from the default."""

_OF_TWO = ("two-discriminators", "two-full-softmax")
"""Rows whose score is the sum of two networks of different seeds."""
_OTHER_SEED = 1_000


class Summed:
    """The sum of the scores of several scorers."""

    def __init__(self, scorers: Sequence[Scorer], *, name: str) -> None:
        self.name, self._scorers = name, scorers

    def score(self, histories: Histories, domain: int, moment: Moment) -> Floats:
        """Return (B, N) the summed scores of the domain's pool."""
        first, *rest = (scorer.score(histories, domain, moment) for scorer in self._scorers)
        return sum(rest, start=first)


def cells() -> Iterator[Cell]:
    """Yield all cells, the screening first."""
    screened = (Cell(d, split, row, 0) for d in SCREEN for split in SPLITS for row in ROWS)
    later = (Cell(d, "temporal", row, 0) for d in LATER for row in ("default", "no-demand"))
    confirmed = (
        Cell(data, split, row, seed)
        for seed in SEEDS
        for data in CONFIRM
        for split in SPLITS
        for row in FINALISTS
    )
    yield from dict.fromkeys((*screened, *later, *confirmed))


def run_cell(cell: Cell, work: Path) -> None:
    """Train what a row asks for, and judge it."""
    dataset = dataset_of(work, cell.data, cell.split)
    seeds = [cell.seed, cell.seed + _OTHER_SEED] if cell.scorer in _OF_TWO else [cell.seed]
    runs = [
        train(
            dataset,
            out=work / f"{cell.data}.{cell.split}.{cell.scorer}.{seed}",
            config=_config(cell, seed),
            resume=True,
        )
        for seed in seeds
    ]
    scorers = [run.scorer() for run in runs]
    scorer = scorers[0] if len(scorers) == 1 else Summed(scorers, name=cell.scorer)
    about = _facts(runs, dataset) | {"settings": list(ROWS[cell.scorer])}
    write_cell(cell, scorer=scorer, dataset=dataset, about=about, standings=STANDINGS)


def _config(cell: Cell, seed: int) -> Config:
    budget = BUDGETS.get((cell.data, cell.split), ())
    return load_config(overrides=[f"train.seed={seed}", *budget, *ROWS[cell.scorer]])


def _facts(runs: Sequence[Run], dataset: Dataset) -> dict[str, object]:
    """Return what the trainings of a row cost together."""
    facts = [training_facts(run, dataset) for run in runs]
    return {
        "best_epochs": [one["best_epoch"] for one in facts],
        "epochs": [one["epochs"] for one in facts],
        "fit_seconds": round(sum(map(seconds, runs)), 1),
        "parameters": sum(int(str(one["parameters"])) for one in facts),
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
