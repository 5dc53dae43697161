"""Inspect a log before preparing it: readable rows, and their contents."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ibis.expr.types as ir

from crossfeed.config import DataConfig
from crossfeed.data.dataset import ROW_ORDER
from crossfeed.data.engines.duckdb_engine import open_duckdb
from crossfeed.data.engines.engine import Engine
from crossfeed.data.inspect.oddities import BOT_RULE, LOOK_ALIKE, Oddities, find_oddities
from crossfeed.data.logs import (
    Log,
    LogRows,
    Logs,
    encoding_notes,
    open_log,
    read_log,
    reading,
    require_readable,
)
from crossfeed.data.logs.values.times import iso_time

__all__ = ["DomainReport", "LogReport", "validate_log"]

_FEW_SHARED = 0.1
"""Smallest share of users in several domains for useful transfer."""
_MANY_TIED = 0.5
_LONG_GAP_DAYS = 30
_SHOWN = 20
"""Number of domains whose shared users are counted."""


@dataclass(frozen=True)
class DomainReport:
    """A log's counts of one domain."""

    domain: str
    clicks: int
    users: int
    items: int
    density: float
    """Clicks divided by (user, item) pairs: 1 if everybody clicked everything once."""


@dataclass(frozen=True)
class LogReport:
    """The contents of a log, before repeats and filters."""

    files: tuple[str, ...]
    columns: dict[str, str]
    """The log's own name of each column that is read."""
    positive: str
    """Which rows are clicks."""
    time_unit: str
    first_time: str | None
    """The earliest click, ISO 8601; None for a log without times."""
    last_time: str | None
    user_ids: str
    item_ids: str
    rows: int
    clicks: int
    not_clicked: int
    """Readable rows that are not clicks."""
    repeats: int
    """Clicks on an item that the user has clicked before."""
    users: int
    users_of_several_domains: int
    """Users with clicks in several domains, who connect them."""
    items: int
    quarantined: dict[str, int]
    """Number of unreadable rows by reason."""
    examples: dict[str, str]
    """The first row of each of those reasons."""
    domains: tuple[DomainReport, ...]
    """From the most clicks to the fewest."""
    shared_users: dict[str, dict[str, int]]
    """Users shared by two domains, among the 20 largest domains."""
    oddities: Oddities
    warnings: tuple[str, ...]
    """Warnings before the log is prepared."""

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Return the report as plain JSON values."""
        return asdict(self)


def validate_log(
    logs: Logs, *, config: DataConfig | None = None, source: str | None = None
) -> LogReport:
    """Read a log as `prepare` would, and report its contents.

    Args:
        logs: as for `prepare`.
        config: the settings that `prepare` would get; the defaults if None.
        source: a key of `crossfeed.data.sources.SOURCES`.

    Raises:
        LogError: the log is not usable.
        QuarantineError: too many of its rows cannot be read.
        ConfigError: a setting does not fit the log.
    """
    config = config or DataConfig()
    log = open_log(logs, config=config, source=source)
    with tempfile.TemporaryDirectory() as folder, open_duckdb(Path(folder) / "scratch") as engine:
        rows = read_log(engine, log, config)
        require_readable(log, rows, config)
        with reading(log):
            return _report(engine, log, rows, config)


def _report(engine: Engine, log: Log, rows: LogRows, config: DataConfig) -> LogReport:
    clicks = engine.keep(rows.rows.filter(rows.rows["clicked"]).drop("file", "row", "clicked"))
    domains = _domains(engine, clicks)
    per_user = clicks.group_by("user_id").agg(domains=lambda table: table["domain"].nunique())
    total = rows.clicked
    first, last = _time_range(engine, clicks, rows)
    report = LogReport(
        files=tuple(input_.name for input_ in log.inputs),
        columns=log.roles,
        positive=log.positive,
        time_unit=rows.time_unit,
        first_time=first,
        last_time=last,
        user_ids=rows.user_ids,
        item_ids=rows.item_ids,
        rows=rows.total,
        clicks=total,
        not_clicked=rows.total - sum(rows.quarantined.values()) - total,
        repeats=total - engine.count(clicks.select("user_id", "domain", "item_id").distinct()),
        users=engine.count(per_user),
        users_of_several_domains=engine.count(per_user.filter(per_user["domains"] > 1)),
        items=sum(domain.items for domain in domains),
        quarantined=rows.quarantined,
        examples=rows.examples,
        domains=domains,
        shared_users=_shared_users(engine, clicks, [one.domain for one in domains[:_SHOWN]]),
        oddities=find_oddities(engine, clicks, rows),
        warnings=(),
    )
    notes = (*log.notes, *rows.notes, *encoding_notes(rows))
    return replace(report, warnings=(*notes, *_warnings(report, config)))


def _domains(engine: Engine, clicks: ir.Table) -> tuple[DomainReport, ...]:
    counted = clicks.group_by("domain").agg(
        clicks=lambda table: table.count(),
        users=lambda table: table["user_id"].nunique(),
        items=lambda table: table["item_id"].nunique(),
    )
    ordered = counted.order_by([counted["clicks"].desc(), "domain"])
    return tuple(
        DomainReport(**row, density=row["clicks"] / (row["users"] * row["items"]))
        for row in engine.records(ordered)
    )


def _shared_users(
    engine: Engine, clicks: ir.Table, domains: list[str]
) -> dict[str, dict[str, int]]:
    """Return for each domain how many users it shares with each other domain."""
    if not domains:
        return {}
    pairs = clicks.filter(clicks["domain"].isin(domains)).select("user_id", "domain").distinct()
    pairs = engine.keep(pairs)
    both = pairs.join(pairs.view(), "user_id").filter(lambda t: t["domain"] != t["domain_right"])
    counts = both.group_by("domain", other="domain_right").agg(users=both.count())
    shared: dict[str, dict[str, int]] = {domain: {} for domain in domains}
    for row in engine.records(counts.order_by(["domain", counts["users"].desc(), "other"])):
        shared[row["domain"]][row["other"]] = row["users"]
    return shared


def _time_range(engine: Engine, clicks: ir.Table, rows: LogRows) -> tuple[str | None, str | None]:
    [times] = engine.records(clicks.agg(first=clicks["time"].min(), last=clicks["time"].max()))
    if rows.time_unit == ROW_ORDER or times["first"] is None:
        return None, None
    return iso_time(times["first"]), iso_time(times["last"])


def _warnings(report: LogReport, config: DataConfig) -> Iterator[str]:
    yield from _domain_warnings(report, config)
    if report.first_time is not None and report.first_time == report.last_time:
        yield "all clicks have the same time: the temporal split cannot be used"
    yield from _oddity_warnings(report)


def _domain_warnings(report: LogReport, config: DataConfig) -> Iterator[str]:
    domains = report.domains
    if not domains:
        yield "no row is a click: look at data.positive"
    small = [domain for domain in domains if domain.clicks < config.min_domain_events]
    if len(small) == 1:
        yield (
            f"domain '{small[0].domain}' has {small[0].clicks} clicks: it will be dropped; lower "
            f"data.min_domain_events ({config.min_domain_events}) to keep it"
        )
    elif small:
        yield (
            f"{len(small)} of {len(domains)} domains have fewer than data.min_domain_events = "
            f"{config.min_domain_events} clicks and will be dropped; lower it to keep them: "
            f"{', '.join(f'{one.domain} ({one.clicks})' for one in small[:10])}"
        )
    if len(domains) == 1:
        yield "the log has only one domain, so nothing can transfer"
    elif report.users_of_several_domains < report.users * _FEW_SHARED:
        yield (
            f"only {report.users_of_several_domains} of {report.users} users have clicks in more "
            "than one domain"
        )
    alone = [domain for domain, shared in report.shared_users.items() if not shared]
    if len(domains) > 1 and alone:
        yield f"no transfer to domains that share no user: {', '.join(alone)}"


def _oddity_warnings(report: LogReport) -> Iterator[str]:
    odd = report.oddities
    if odd.duplicates:
        yield f"{odd.duplicates} clicks repeat another one entirely; data.repeats says which stay"
    if odd.shared_items:
        yield (
            f"{odd.shared_items} item ids occur in several domains; each pair of id and domain is "
            "an item of its own"
        )
    if odd.tied > report.clicks * _MANY_TIED:
        yield (
            f"{odd.tied / report.clicks:.0%} of the clicks have the same time as another click of "
            "the user, so their order is unknown; log finer times if you can"
        )
    if odd.longest_gap_days > _LONG_GAP_DAYS:
        yield f"there is no click in the {odd.longest_gap_days} days after {odd.gap_after}"
    for twins in odd.twins:
        examples = "; ".join(" = ".join(map(repr, group)) for group in twins.examples)
        yield (
            f"{twins.groups} values of {twins.kind} differ from another only by {LOOK_ALIKE}: "
            f"{examples}"
        )
    for words in odd.words:
        counts = ", ".join(f"'{word}' in {clicks} clicks" for word, clicks in words.clicks.items())
        yield (
            f"a {words.kind} is a word for a missing value: {counts}; all of them count as one "
            f"{words.kind}; write missing values as null, or in a CSV as data.missing_values says"
        )
    if odd.bot_count:
        busiest = ", ".join(f"'{bot.user_id}' ({bot.clicks})" for bot in odd.bots[:5])
        yield f"{odd.bot_count} users are suspected to be bots ({BOT_RULE}): {busiest}"
