"""The command that compares scorers, with the certainty of each difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from crossfeed.cli import output
from crossfeed.cli.options import Json

if TYPE_CHECKING:
    from crossfeed.evaluation.statistics.comparisons import Comparison
    from crossfeed.studies.comparison import Contest, Entrant
    from crossfeed.studies.transfer import Transfer

__all__ = ["compare", "print_transfer"]

_SCOPES = {"micro": "all clicks (micro)", "macro": "all domains (macro)"}
_WIDE = ("clicks", "users", "first", "second", "difference", "p", "Holm", "Wilcoxon", "better")
_NARROW = (
    ("difference", "Holm", "better"),
    ("first", "second"),
    ("clicks", "users", "p", "Wilcoxon"),
)
"""The columns of each table where one with all of them is too wide: the answer comes first."""
_ENOUGH_SEEDS = 3
"""Fewest trainings of a scorer that support a claim about its settings."""


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Evaluated runs.")],
    *,
    baselines: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Baselines evaluated with the first run, by comma; by default all of them if "
            "the runs are one scorer, else none.",
        ),
    ] = None,
    metric: Annotated[str, typer.Option(help="A metric of the evaluation.")] = "ndcg@10",
    as_json: Json = False,
) -> None:
    """Compare the first run with each other scorer: which is better, by how much, how surely.

    Runs that differ in train.seed alone, or in how they ran (train.device, checkpoint_minutes,
    track), are one scorer, the mean of its seeds. Figures come with 95% bootstrap intervals by
    user; p is of a paired randomisation test by user, adjusted (Holm) for all rows of the answer.
    The part is the one that the runs were last evaluated on.

    \b
    crossfeed compare RUN
    crossfeed compare ours-0 ours-1 ours-2 theirs-0 theirs-1 theirs-2
    crossfeed compare ours theirs --baselines item-knn --metric recall@10 --json
    """
    from crossfeed.run import Run
    from crossfeed.studies.comparison import contests, entrants, evaluated_part

    opened = [Run.open(run) for run in runs]
    names = None
    if baselines is not None:
        names = [name.strip() for name in baselines.split(",") if name.strip()]
    found = entrants(opened, baselines=names)
    made = contests(found, metric=metric)
    part = evaluated_part(opened[0])
    if as_json:
        output.print_json(_plain(found, made, metric=metric, part=part))
    else:
        _print(output.stdout(), made, metric=metric, part=part)
        output.say(f"next: {output.command('report', runs[0])}")
    _note_few_seeds(found)


def print_transfer(console: Console, transfer: Transfer, held_back: Mapping[str, str]) -> None:
    """Print how much the domains gain from each other, and which ones are held back."""
    metric = transfer.metric
    console.print(output.title(f"{metric}: trained on all domains against on each alone"))
    _print_comparisons(console, "all domains", "alone", transfer.against_alone)
    console.print(output.title(f"{metric} by history shown"))
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
        console.print(f"held back: {name} ({reason})")


def _print(console: Console, contests: Sequence[Contest], *, metric: str, part: str) -> None:
    scorers = [contests[0].first, *(contest.second for contest in contests)]
    for scorer in scorers:
        if len(scorer.runs) > 1:
            told = f"{scorer.name} is the mean of {', '.join(scorer.runs)}"
            console.print(told, soft_wrap=True)
    for contest in contests:
        first, second = contest.first.name, contest.second.name
        console.print(output.title(f"{metric}, {part} part: {first} against {second}"))
        _print_comparisons(console, first, second, contest.comparisons)


def _print_comparisons(
    console: Console, first: str, second: str, comparisons: Sequence[Comparison]
) -> None:
    """Print a row for each scope: one table where the console is wide enough, else three."""
    names = {"first": first, "second": second, "not sure": "not sure"}
    cells = [
        {
            "clicks": f"{one.events:,}",
            "users": f"{one.users:,}",
            "first": _with_interval(f"{one.first:.4f}", one.first_low, one.first_high),
            "second": _with_interval(f"{one.second:.4f}", one.second_low, one.second_high),
            "difference": _with_interval(f"{one.difference:+.4f}", one.low, one.high, sign="+"),
            "p": _chance(one.p),
            "Holm": _chance(one.p_holm),
            "Wilcoxon": _chance(one.p_wilcoxon),
            "better": names[one.better],
        }
        for one in comparisons
    ]

    def table(*columns: str) -> Table:
        heads = {"first": first, "second": second}
        made = output.make_table("domain", *(heads.get(column, column) for column in columns))
        for one, row in zip(comparisons, cells, strict=True):
            made.add_row(_SCOPES.get(one.scope, one.scope), *(row[column] for column in columns))
        return made

    whole = table(*_WIDE)
    if output.fits(console, whole):
        console.print(whole)
    else:
        for columns in _NARROW:
            console.print(table(*columns))


def _with_interval(
    figure: str, low: float | None, high: float | None, *, sign: Literal["+", "-"] = "-"
) -> str:
    """Return a figure with its interval, if it has one; `sign` is as in number formats."""
    if low is None or high is None:
        return f"{figure} (one user)"
    return f"{figure} ({low:{sign}.4f} .. {high:{sign}.4f})"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _chance(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else "<0.0001"


def _plain(
    scorers: Sequence[Entrant], contests: Sequence[Contest], *, metric: str, part: str
) -> dict[str, object]:
    return {
        "metric": metric,
        "part": part,
        "scorers": [{"name": one.name, "runs": one.runs, "seeds": one.seeds} for one in scorers],
        "contests": [
            {
                "first": contest.first.name,
                "second": contest.second.name,
                "comparisons": [
                    {**asdict(one), "difference": one.difference, "better": one.better}
                    for one in contest.comparisons
                ],
            }
            for contest in contests
        ],
    }


def _note_few_seeds(scorers: Sequence[Entrant]) -> None:
    few = [one.name for one in scorers if one.runs and len(one.runs) < _ENOUGH_SEEDS]
    if few:
        output.say(
            f"note: fewer than {_ENOUGH_SEEDS} seeds of {', '.join(few)}: this speaks of these "
            "trainings, not of their settings; other seeds give other figures"
        )
