"""The quality benchmark's table: seeds averaged, figures with intervals, crossfeed against each.

What needs the outcomes of single events, which are not committed, is kept beside the cells' results
as one file for each data set and split; the table needs those files alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from crossfeed.evaluation.outcomes import Outcomes, read_outcomes
from crossfeed.evaluation.statistics import (
    compare,
    estimates,
    flips_for,
    holm,
    mean_over_seeds,
)
from crossfeed.files import write_json

__all__ = ["PAGE", "RESULTS", "table", "write_page", "write_standings"]

RESULTS = Path(__file__).parent / "results" / "quality"

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
_BEGIN, _END = "<!-- quality -->\n", "<!-- /quality -->\n"

METRIC = "ndcg@10"
OURS = "crossfeed"
_STANDING = "standing.json"

Json = dict[str, Any]  # Any: JSON


def write_standings(work: Path) -> None:
    """Judge the mean over the seeds of every scorer whose outcomes lie in `work`."""
    for (data, split), cells in _by_split().items():
        scorers = {
            name: mean_over_seeds([_outcomes(work, cell) for cell in own], name=name)
            for name, own in cells.items()
            if all(_outcomes_file(work, cell).exists() for cell in own)
        }
        if scorers:
            file = RESULTS / f"{data}.{split}.{_STANDING}"
            write_json(file, {"metric": METRIC, "scorers": _standings(scorers)})


def table() -> str:
    """Return the results so far as Markdown, one table for each data set and split."""
    return "\n".join(
        line
        for (data, split), cells in _by_split().items()
        for line in [f"### {data}, {split}", "", *_rows(data, split, cells), ""]
    )


def write_page(page: Path) -> None:
    """Put the results so far into a page, between its two markers."""
    before, _, rest = page.read_text("utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    page.write_text(f"{before}{_BEGIN}\n{table()}\n{_END}{after}", "utf-8")


def _by_split() -> dict[tuple[str, str], dict[str, list[Json]]]:
    """Return the cells by (data, split) and scorer, those of one scorer by seed."""
    found: dict[tuple[str, str], dict[str, list[Json]]] = {}
    for file in sorted(RESULTS.glob("*.json")):
        if not file.name.endswith(_STANDING):
            cell = json.loads(file.read_text("utf-8"))
            scorers = found.setdefault((cell["data"], cell["split"]), {})
            scorers.setdefault(cell["scorer"], []).append(cell)
    return found


def _outcomes_file(work: Path, cell: Json) -> Path:
    name = "{data}.{split}.{scorer}.{seed}.outcomes.parquet".format(**cell)
    return work / name


def _outcomes(work: Path, cell: Json) -> Outcomes:
    return read_outcomes(_outcomes_file(work, cell))[0]


def _standings(scorers: Mapping[str, Outcomes]) -> Json:
    """Return each scorer's figures, and how far crossfeed is ahead of it; Holm over all of it."""
    standings: Json = {
        name: {"estimates": [asdict(one) for one in estimates(outcomes, METRIC)]}
        for name, outcomes in scorers.items()
    }
    rivals = [name for name in scorers if name != OURS]
    if OURS not in scorers or not rivals:
        return standings
    scopes = len(standings[OURS]["estimates"])
    contests = {
        name: compare(scorers[OURS], scorers[name], METRIC, flips=flips_for(scopes * len(rivals)))
        for name in rivals
    }
    adjusted = iter(holm([one.p for contest in contests.values() for one in contest]))
    for name, contest in contests.items():
        standings[name]["behind crossfeed"] = [
            {
                "scope": one.scope,
                "difference": one.difference,
                "low": one.low,
                "high": one.high,
                "p": one.p,
                "p_holm": next(adjusted),
            }
            for one in contest
        ]
    return standings


_HEAD = (
    "| scorer | seeds | ndcg@10 micro (95%) | ndcg@10 macro (95%) | crossfeed ahead in micro "
    "| p (Holm) | auc micro | fit s | clicks/s | peak MiB | parameters |",
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
)


def _rows(data: str, split: str, cells: Mapping[str, Sequence[Json]]) -> Iterator[str]:
    file = RESULTS / f"{data}.{split}.{_STANDING}"
    standings = json.loads(file.read_text("utf-8"))["scorers"]
    yield from _HEAD
    best_first = sorted(standings, key=lambda name: -standings[name]["estimates"][0]["mean"])
    for name in best_first:
        yield _row(name, standings[name], cells[name])


def _row(name: str, standing: Json, cells: Sequence[Json]) -> str:
    """Return a scorer's row; costs are means over its seeds."""

    def mean(key: str) -> str:
        values = [cell[key] for cell in cells if key in cell]
        return f"{sum(values) / len(values):,.0f}" if values else ""

    micro, macro = (_with_interval(one) for one in standing["estimates"][:2])
    ahead = standing.get("behind crossfeed", [{}])[0]
    auc = sum(cell["results"]["micro"]["auc"] for cell in cells) / len(cells)
    columns = [
        name,
        str(len(cells)),
        micro,
        macro,
        f"{ahead['difference']:+.4f} ({ahead['low']:+.4f} .. {ahead['high']:+.4f})"
        if ahead
        else "",
        _chance(ahead["p_holm"]) if ahead else "",
        f"{auc:.4f}",
        *map(mean, ("fit_seconds", "clicks_per_second", "peak_mib", "parameters")),
    ]
    return "| " + " | ".join(columns) + " |"


def _with_interval(one: Json) -> str:
    return f"{one['mean']:.4f} ({one['low']:.4f} .. {one['high']:.4f})"


def _chance(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else "<0.0001"
