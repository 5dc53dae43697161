"""The tables of the benchmarks of quality: seeds averaged, intervals, one scorer against all.

The outcomes of single events, which comparisons are made of, are kept beside the cells' results,
for the one metric that is compared; what follows from them is one file per data set and split.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from crossfeed.evaluation.outcomes import Outcomes, read_outcomes, write_outcomes
from crossfeed.evaluation.statistics.comparisons import (
    compare,
    estimates,
    flips_for,
    holm,
    mean_over_seeds,
)
from crossfeed.files import write_json

__all__ = ["Standings", "parser_of"]

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
METRIC = "ndcg@10"
_STANDING = "standing.json"

Json = dict[str, Any]  # Any: JSON


@dataclass(frozen=True)
class Standings:
    """Where the results of a benchmark lie, and who is compared with all others."""

    name: str
    """Names the folder of the results and the place in the page."""
    ours: str
    part: str
    """The part of the data that the cells are judged on: test or validation."""

    @property
    def results(self) -> Path:
        """Return the folder of the committed results."""
        return Path(__file__).parent / "results" / self.name

    def has(self, cell: str) -> bool:
        """Return whether a cell has been judged, and can be compared."""
        return (self.results / f"{cell}.json").exists() and self._outcomes_file(cell).exists()

    def keep_outcomes(self, cell: str, outcomes: Outcomes) -> None:
        """Keep of a cell's outcomes what comparisons need."""
        kept = replace(outcomes, values={METRIC: outcomes.values[METRIC]})
        write_outcomes(self._outcomes_file(cell), [kept])

    def write(self) -> None:
        """Judge the mean over the seeds of every scorer whose outcomes are there.

        What is known of the others stays as it was.
        """
        for (data, split), cells in self._by_split().items():
            files = {
                name: [self._outcomes_file(_cell_name(cell)) for cell in own]
                for name, own in cells.items()
            }
            scorers = {
                name: mean_over_seeds([read_outcomes(file)[0] for file in own], name=name)
                for name, own in files.items()
                if all(file.exists() for file in own)
            }
            if scorers:
                standing = self.results / f"{data}.{split}.{_STANDING}"
                known = json.loads(standing.read_text("utf-8")) if standing.exists() else {}
                others = {k: v for k, v in known.get("scorers", {}).items() if k in cells}
                judged = {**others, **self._standings(scorers)}
                write_json(standing, {"metric": METRIC, "scorers": judged})

    def _outcomes_file(self, cell: str) -> Path:
        return self.results / "outcomes" / f"{cell}.parquet"

    def table(self) -> str:
        """Return the results so far as Markdown, one table for each data set and split."""
        return "\n".join(
            line
            for (data, split), cells in self._by_split().items()
            for line in [f"### {data}, {split}", "", *self._rows(data, split, cells)]
        )

    def write_page(self) -> None:
        """Put the results so far into the page, between two markers."""
        begin, end = f"<!-- {self.name} -->\n", f"<!-- /{self.name} -->\n"
        before, _, rest = PAGE.read_text("utf-8").partition(begin)
        _, _, after = rest.partition(end)
        PAGE.write_text(f"{before}{begin}\n{self.table()}\n{end}{after}", "utf-8")

    def _by_split(self) -> dict[tuple[str, str], dict[str, list[Json]]]:
        """Return the cells by (data, split) and scorer, those of one scorer by seed."""
        found: dict[tuple[str, str], dict[str, list[Json]]] = {}
        for file in sorted(self.results.glob("*.json")):
            if not file.name.endswith(_STANDING):
                cell = json.loads(file.read_text("utf-8"))
                scorers = found.setdefault((cell["data"], cell["split"]), {})
                scorers.setdefault(cell["scorer"], []).append(cell)
        return found

    def _standings(self, scorers: Mapping[str, Outcomes]) -> Json:
        """Return each scorer's figures, and how far ours is ahead of it; Holm over all of it."""
        standings: Json = {
            name: {"estimates": [asdict(one) for one in estimates(outcomes, METRIC)]}
            for name, outcomes in scorers.items()
        }
        rivals = [name for name in scorers if name != self.ours]
        if self.ours not in scorers or not rivals:
            return standings
        ours = scorers[self.ours]
        flips = flips_for(len(standings[self.ours]["estimates"]) * len(rivals))
        contests = {name: compare(ours, scorers[name], METRIC, flips=flips) for name in rivals}
        adjusted = iter(holm([one.p for contest in contests.values() for one in contest]))
        for name, contest in contests.items():
            standings[name]["behind"] = [
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

    def _rows(self, data: str, split: str, cells: Mapping[str, Sequence[Json]]) -> Iterator[str]:
        file = self.results / f"{data}.{split}.{_STANDING}"
        standings = json.loads(file.read_text("utf-8"))["scorers"]
        best_first = sorted(standings, key=lambda name: -standings[name]["estimates"][0]["mean"])
        ours = f"{self.ours} ahead"
        for head, row in (
            ("scorer | seeds | ndcg@10 micro (95%) | ndcg@10 macro (95%) | auc micro", _quality),
            (f"scorer | {ours} in micro | p (Holm) | {ours} in macro | p (Holm)", _ahead),
            ("scorer | fit s | clicks/s | peak MiB | parameters", _costs),
        ):
            yield f"| {head} |"
            yield "|---" + head.count("|") * "|--:" + "|"
            for name in best_first:
                columns = row(standings[name], cells[name])
                if any(columns):
                    yield "| " + " | ".join([name, *columns]) + " |"
            yield ""


def parser_of(description: str) -> argparse.ArgumentParser:
    """Return a reader of the commands that the benchmarks of quality share."""
    parser = argparse.ArgumentParser(description=description)
    commands = parser.add_subparsers(dest="command", required=True)
    everything = commands.add_parser("run", help="run the cells that have no result yet")
    everything.add_argument("--only", default="", help="beginning of the cells' names")
    everything.add_argument("--jobs", type=int, default=1, help="cells at a time, a thread each")
    one = commands.add_parser("cell", help="run one cell")
    one.add_argument("name", help="data.split.scorer.seed")
    for command in (everything, one):
        command.add_argument("--work", type=Path, required=True, help="folder for data and runs")
    shown = commands.add_parser("table", help="print the results so far")
    shown.add_argument("--write", action="store_true", help="put them into docs/benchmarks.md")
    return parser


def _cell_name(cell: Json) -> str:
    return "{data}.{split}.{scorer}.{seed}".format(**cell)


def _quality(standing: Json, cells: Sequence[Json]) -> list[str]:
    micro, macro = (_with_interval(one) for one in standing["estimates"][:2])
    auc = sum(cell["results"]["micro"]["auc"] for cell in cells) / len(cells)
    return [str(len(cells)), micro, macro, f"{auc:.4f}"]


def _ahead(standing: Json, cells: Sequence[Json]) -> list[str]:
    """Return how far ours is ahead of the scorer in micro and macro; nothing of ours itself."""
    return [
        text
        for one in standing.get("behind", [])[:2]
        for text in (
            f"{one['difference']:+.4f} ({one['low']:+.4f} .. {one['high']:+.4f})",
            _chance(one["p_holm"]),
        )
    ]


def _costs(standing: Json, cells: Sequence[Json]) -> list[str]:
    """Return the means over those seeds that ran on the machine of the first one."""
    alike = [cell for cell in cells if cell["machine"] == cells[0]["machine"]]

    def mean(key: str) -> str:
        values = [cell[key] for cell in alike if key in cell]
        return f"{sum(values) / len(values):,.0f}" if values else ""

    return [mean(key) for key in ("fit_seconds", "clicks_per_second", "peak_mib", "parameters")]


def _with_interval(one: Json) -> str:
    return f"{one['mean']:.4f} ({one['low']:.4f} .. {one['high']:.4f})"


def _chance(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else "<0.0001"
