"""Commands that say how sure a difference is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from crossfeed.cli import output
from crossfeed.cli.options import Json

if TYPE_CHECKING:
    from crossfeed.evaluation.statistics import Comparison
    from crossfeed.experiments.comparison import Contest
    from crossfeed.experiments.transfer import Transfer

__all__ = ["compare", "print_transfer"]

_SCOPES = {"micro": "all clicks (micro)", "macro": "all domains (macro)"}
_SURE = 0.05
"""Largest adjusted p at which a scorer is called better."""


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Evaluated runs.")],
    *,
    baselines: Annotated[
        str, typer.Option(metavar="NAMES", help="Baselines evaluated with the first run.")
    ] = "",
    metric: Annotated[str, typer.Option(help="A metric of the evaluation.")] = "ndcg@10",
    as_json: Json = False,
) -> None:
    """Say who is better, by how much and how surely: the first run against each other scorer.

    Runs that differ in train.seed alone are one scorer, the mean of its seeds. Differences come
    with 95% bootstrap intervals by user; p is of a paired randomisation test by user, adjusted
    (Holm) for all rows of the answer.

    \b
    crossfeed compare RUN --baselines popularity,item-knn
    crossfeed compare ours-0 ours-1 ours-2 theirs-0 theirs-1 theirs-2
    """
    from crossfeed.experiments.comparison import contests, entrants
    from crossfeed.run import Run

    names = [name.strip() for name in baselines.split(",") if name.strip()]
    found = entrants([Run.open(run) for run in runs], baselines=names)
    made = contests(found, metric=metric)
    if as_json:
        output.print_json([_plain(contest, metric) for contest in made])
        return
    for contest in made:
        _print(contest, metric)


def print_transfer(console: Console, transfer: Transfer, held_back: Mapping[str, str]) -> None:
    """Print what the domains give each other, and which of them are held back."""
    metric = transfer.metric
    console.print(output.title(f"{metric}: trained on all domains against on each alone"))
    console.print(_table("all domains", "alone", transfer.against_alone, metric))
    console.print(output.title(f"{metric} by what the network was shown"))
    table = output.make_table("shown", *transfer.domains)
    table.add_row("nothing (popularity)", *map(_figure, transfer.popularity))
    for name, row in zip(transfer.domains, transfer.matrix, strict=True):
        table.add_row(f"history in {name}", *map(_figure, row))
    table.add_section()
    for name, row in zip(transfer.domains, transfer.without, strict=True):
        table.add_row(f"all but {name}", *map(_figure, row))
    table.add_section()
    table.add_row("all domains", *map(_figure, transfer.joint))
    console.print(table)
    for name, reason in held_back.items():
        console.print(f"held back: {name} ({reason})", markup=False)


def _print(contest: Contest, metric: str) -> None:
    first, second = contest.first.name, contest.second.name
    console = output.stdout()
    console.print(output.title(f"{metric}: {first} against {second}"))
    console.print(_table(first, second, contest.comparisons, metric))


def _table(first: str, second: str, comparisons: Sequence[Comparison], metric: str) -> Table:
    table = output.make_table(
        "domain", "clicks", first, second, "difference", "95%", "p", "Holm", "Wilcoxon", "better"
    )
    for one in comparisons:
        table.add_row(
            _SCOPES.get(one.scope, one.scope),
            f"{one.events:,}",
            f"{one.first:.4f}",
            f"{one.second:.4f}",
            f"{one.difference:+.4f}",
            f"{one.low:+.4f} .. {one.high:+.4f}",
            *map(_chance, (one.p, one.p_holm, one.p_wilcoxon)),
            {None: "not sure", True: first, False: second}[_first_is_better(one, metric)],
        )
    return table


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _chance(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else "<0.0001"


def _first_is_better(one: Comparison, metric: str) -> bool | None:
    from crossfeed.evaluation.metrics import LOWER_IS_BETTER

    if one.p_holm > _SURE:
        return None
    return (one.difference > 0) != (metric in LOWER_IS_BETTER)


def _plain(contest: Contest, metric: str) -> dict[str, object]:
    return {
        "metric": metric,
        "first": {"name": contest.first.name, "runs": contest.first.runs},
        "second": {"name": contest.second.name, "runs": contest.second.runs},
        "comparisons": [
            {**asdict(one), "difference": one.difference} for one in contest.comparisons
        ],
    }
