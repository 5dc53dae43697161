"""Results, datasets, logs and sources as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from crossfeed.cli.output import fits, make_table, title

if TYPE_CHECKING:
    from crossfeed.data.inspect.quality import LogReport
    from crossfeed.data.sources import Source
    from crossfeed.evaluation.audit import AuditReport
    from crossfeed.evaluation.results import Results
    from crossfeed.serving.engine.versions import BundleFolder
    from crossfeed.serving.histories.pins import Pin
    from crossfeed.serving.recommend.answers import Recommendations

__all__ = [
    "audit_table",
    "bundles",
    "dataset_summary",
    "log_report",
    "print_results",
    "recommendations",
    "source_facts",
    "source_text",
]

_SHOWN = ("ndcg@", "recall@", "auc")
"""Prefixes of the metrics in the table; results.json holds all."""

_SLICES = {
    "cold": "users new in the domain",
    "warm": "users known in the domain",
    "head": "head items",
    "tail": "tail items",
    "new": "items new since training",
    "few": "items with 1 to 4 training clicks",
    "many": "items with 5 or more",
}


def print_results(console: Console, results: Results) -> None:
    """Print figures per domain, micro, macro and by slice, then figures over all lists.

    The best of each row is in bold. One table if the console is wide enough for all metrics, else
    one per metric.
    """
    console.print(title(f"{results.part} part, ranked among all items of the domain"))
    metrics = [name for name in results.micro if name.startswith(_SHOWN)]
    whole = _results_table(results, metrics)
    if fits(console, whole):
        console.print(whole)
    else:
        for metric in metrics:
            console.print(_results_table(results, [metric]))
    if results.lists.micro:
        console.print(title("lists, with the items of all domains as one catalogue"))
        console.print(_lists_table(results))


def _results_table(results: Results, metrics: Sequence[str]) -> Table:
    scorers = [results, *results.baselines.values()]
    columns = [f"{metric}\n{scorer.scorer}" for metric in metrics for scorer in scorers]
    table = make_table("domain", "clicks", *columns)
    for domain, own in results.domains.items():
        rows = [scorer.domains[domain] for scorer in scorers]
        table.add_row(domain, f"{own['events']:,.0f}", *_figures(rows, metrics))
    table.add_section()
    clicks = f"{sum(own['events'] for own in results.domains.values()):,.0f}"
    table.add_row("all clicks (micro)", clicks, *_figures([one.micro for one in scorers], metrics))
    table.add_row("all domains (macro)", "", *_figures([one.macro for one in scorers], metrics))
    worst = [{name: each.value for name, each in one.worst.items()} for one in scorers]
    table.add_row("worst domain", "", *_figures(worst, metrics))
    table.add_section()
    for name, own in results.slices.items():
        rows = [scorer.slices[name] for scorer in scorers]
        table.add_row(_SLICES[name], f"{own['events']:,.0f}", *_figures(rows, metrics))
    return table


def _lists_table(results: Results) -> Table:
    scorers = [results, *results.baselines.values()]
    table = make_table("scorer", *results.lists.micro)
    for scorer in scorers:
        figures = [scorer.lists.micro.get(name) for name in results.lists.micro]
        table.add_row(scorer.scorer, *("-" if one is None else f"{one:.4f}" for one in figures))
    return table


def _figures(scorers: Sequence[Mapping[str, float]], metrics: Sequence[str]) -> list[Text]:
    """Return the cells of one row: each metric's figure of each scorer, the best in bold."""
    cells = []
    for metric in metrics:
        values = [round(figures[metric], 4) if metric in figures else None for figures in scorers]
        best = max((value for value in values if value is not None), default=None)
        cells += [
            Text("-") if value is None else Text(f"{value:.4f}", "bold" if value == best else "")
            for value in values
        ]
    return cells


def dataset_summary(manifest: Mapping[str, Any]) -> list[RenderableType]:  # Any: JSON
    """Return a dataset's counts, domain by domain, and the dropped rows."""
    counts, log = manifest["counts"], manifest["log"]
    total = (
        f"{counts['events']:,} clicks of {counts['users']:,} users on {counts['items']:,} items, "
        f"split {manifest['split']['name']}"
    )
    table = make_table(
        "domain", "users", "items", "trained", "training", "validation", "test", "on untrained"
    )
    for domain in manifest["domains"]:
        parts = domain["events"]
        table.add_row(
            domain["domain"],
            f"{domain['users']:,}",
            f"{domain['items']:,}",
            f"{domain['trained_items']:,}",
            *(f"{parts.get(part, 0):,}" for part in ("train", "validation", "test")),
            f"{domain['untrained_share']:.1%}",
        )
    dropped = {
        **{f"quarantined, {reason}": rows for reason, rows in log["quarantined"].items()},
        **manifest["dropped"],
    }
    reasons = [f"{reason} {rows:,}" for reason, rows in dropped.items() if rows]
    lines = [f"{log['rows']:,} rows read; left out: {', '.join(reasons) or 'none'}"]
    untrained = [f"{filter_} {rows:,}" for filter_, rows in manifest["untrained"].items() if rows]
    if untrained:
        lines.append(
            f"training clicks on items without a vector of their own: {', '.join(untrained)}; "
            "demand alone scores these items"
        )
    later = [one["domain"] for one in manifest["domains"] if not one["events"].get("train")]
    if later:
        lines.append(
            f"domains that begin after training: {', '.join(later)}; demand alone scores their "
            "items"
        )
    return [title(total), table, *map(Text, lines)]


def audit_table(report: AuditReport) -> Table:
    """Return each rule of an audit and whether it holds."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("artefact", "rule", "checked", "holds"):
        table.add_column(column, justify="right" if column == "checked" else "left")
    for one in report.findings:
        holds = Text("yes") if one.passed else Text(f"NO: {one.detail}", "bold red")
        table.add_row(Text(one.artefact), Text(one.rule), f"{one.checked:,}", holds)
    return table


def log_report(report: LogReport) -> list[RenderableType]:
    """Return a log's counts, domain by domain, and its warnings."""
    total = (
        f"{report.clicks:,} clicks of {report.users:,} users on {report.items:,} items, "
        f"from {report.first_time or 'the first row'} to {report.last_time or 'the last'}"
    )
    table = make_table("domain", "clicks", "users", "items", "density", "users in others too")
    for domain in report.domains:
        counts = (domain.clicks, domain.users, domain.items)
        shared = report.shared_users.get(domain.domain, {})
        most = ", ".join(f"{other} {users:,}" for other, users in list(shared.items())[:2])
        table.add_row(
            domain.domain, *(f"{count:,}" for count in counts), f"{domain.density:.2%}", most
        )
    every = report.positive == "true"
    clicks = "every row is a click" if every else f"clicks are the rows with {report.positive}"
    lines = [
        f"{report.rows:,} rows in {len(report.files)} file(s); {clicks}; times are "
        f"{report.time_unit}",
        f"{report.users_of_several_domains:,} users in several domains, {report.repeats:,} repeats",
        f"not a click: {report.not_clicked:,} rows ({report.not_clicked / report.rows:.1%})",
    ]
    lines += [
        f"quarantined, {reason}: {rows:,} ({rows / report.rows:.1%}; "
        f"first: {report.examples[reason]})"
        for reason, rows in report.quarantined.items()
        if rows
    ]
    lines += [f"look: {warning}" for warning in report.warnings]
    return [title(total), table, Text("\n".join(lines))]


def source_facts(source: Source) -> dict[str, object]:
    """Return the description of a source, for machines."""
    return {
        "name": source.name,
        "title": source.title,
        "licence": source.licence,
        "home_page": source.home_page,
        "rules": list(source.rules),
        "positive": source.positive,
    }


def source_text(source: Source) -> Text:
    """Return the description of a source, for people."""
    text = Text.assemble((source.name, "bold"), f"  {source.title}\n")
    for rule in source.rules:
        text.append(f"  - {rule}\n")
    text.append(f"  terms: {source.licence}\n  {source.home_page}")
    return text


def recommendations(found: Recommendations) -> Table:
    """Return recommended items, best first."""
    table = make_table("item", "score", "source")
    for item in found.items:
        table.add_row(str(item.item_id), f"{item.score:.4f}", item.source)
    return table


def bundles(found: Sequence[BundleFolder], pins: Sequence[Pin]) -> Table:
    """Return the bundles of a folder, when each was pinned last, and which one is in service.

    Args:
        found: the bundles, the newest first.
        pins: the newest pins, newest first.
    """
    table = make_table("version", "folder", "pinned", "state")
    times: dict[str, str] = {}
    for pin in pins:
        moment = datetime.fromtimestamp(pin.timestamp / 1000, UTC)
        times.setdefault(pin.version, moment.strftime("%Y-%m-%d %H:%M:%S UTC"))
    in_service = pins[0].version if pins else None
    for one in found:
        state = "in service" if one.version == in_service else ""
        version = one.version or "?"
        table.add_row(version, one.path.name, times.get(version, ""), one.problem or state)
    for version in times.keys() - {one.version for one in found}:
        state = "pinned, but not here" if version == in_service else "not here"
        table.add_row(version, "", times[version], state)
    return table
