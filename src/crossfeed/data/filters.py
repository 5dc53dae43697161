"""Which clicks stay: the repeats policy, the k-core and the smallest domain.

Clicks are tables of codes: user, item, time, tie (see `tables.encode`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import ibis.expr.types as ir

from crossfeed.config import DataConfig
from crossfeed.data.engine import Engine

__all__ = ["ORDER", "Filtered", "drop_repeats", "filter_clicks"]

ORDER = ("time", "tie", "item")
"""The order of a user's clicks: time, and among equal times a hash of what was clicked."""


@dataclass(frozen=True)
class Filtered:
    """The clicks that stay and how many were dropped for which reason."""

    clicks: ir.Table
    dropped: dict[str, int]


def drop_repeats(
    clicks: ir.Table, policy: Literal["first", "last", "keep"], *, within: tuple[str, ...] = ()
) -> ir.Table:
    """Keep one click of each (user, item), or of each (user, item, *within)."""
    if policy == "keep":
        return clicks
    # The tie is the same for all clicks of a user on an item, so that time alone decides.
    grouped = clicks.group_by(["user", "item", *within]).agg(
        time=clicks["time"].min() if policy == "first" else clicks["time"].max(),
        tie=clicks["tie"].min(),
    )
    return grouped.select(*clicks.columns)


def filter_clicks(
    engine: Engine, clicks: ir.Table, items: ir.Table, config: DataConfig
) -> Filtered:
    """Apply the k-core and the smallest domain alternately until all thresholds hold.

    Args:
        engine: where the tables are kept.
        clicks: user, item, time, tie.
        items: item, domain.
        config: the thresholds.
    """
    dropped = {"k-core": 0, "small domain": 0}
    kept = clicks
    while True:
        core, rare = _k_core(engine, kept, config)
        large, small = _large_domains(engine, core, items, config)
        dropped["k-core"] += rare
        dropped["small domain"] += small
        for old, new in ((kept, core), (core, large)):
            if old is not new and old is not clicks:
                engine.drop(old)
        kept = large
        if not small:
            return Filtered(kept, dropped)


def _k_core(engine: Engine, clicks: ir.Table, config: DataConfig) -> tuple[ir.Table, int]:
    """Drop rare users and items until none is left; return the clicks and how many were dropped.

    The clicks are counted and written once. Rounds follow what each loss takes from the other
    side: the few clicks of the users that have become rare, then those of the items, and so on.
    """
    users = _Side(engine, clicks, "user", config.min_user_events)
    items = _Side(engine, clicks, "item", config.min_item_events)
    dropped, side, other = 0, users, items
    at_rest = 0
    while at_rest < 2:
        lost = side.drop_rare(clicks, other)
        dropped += lost
        at_rest = 0 if lost else at_rest + 1
        side, other = other, side
    if dropped:
        kept = clicks.semi_join(users.counts, "user").semi_join(items.counts, "item")
        clicks = engine.keep(kept)
    users.close()
    items.close()
    return clicks, dropped


class _Side:
    """The users, or the items, that are left of a k-core, with their counts."""

    def __init__(self, engine: Engine, clicks: ir.Table, key: str, least: int) -> None:
        self._engine, self._key, self._least = engine, key, least
        self.counts = engine.keep(clicks.group_by(key).agg(events=lambda table: table.count()))
        """key, events"""

    def drop_rare(self, clicks: ir.Table, other: _Side) -> int:
        """Drop those with too few clicks and take these from the other side's counts."""
        rare = self._engine.keep(self.counts.filter(self.counts["events"] < self._least))
        lost = 0
        if self._engine.count(rare):
            self._replace(self.counts.filter(self.counts["events"] >= self._least))
            lost = other.take(clicks.semi_join(rare, self._key))
        self._engine.drop(rare)
        return lost

    def take(self, clicks: ir.Table) -> int:
        """Take clicks from the counts, apart from those whose user or item is gone already."""
        taken = clicks.group_by(self._key).agg(taken=lambda table: table.count())
        taken = self._engine.keep(taken.semi_join(self.counts, self._key))
        joined = self.counts.left_join(taken, self._key)
        left = joined["events"] - joined["taken"].fill_null(0)
        self._replace(joined.select(self._key, events=left))
        [row] = self._engine.records(taken.agg(taken=taken["taken"].sum()))
        self._engine.drop(taken)
        return int(row["taken"] or 0)

    def close(self) -> None:
        """Free the counts."""
        self._engine.drop(self.counts)

    def _replace(self, counts: ir.Table) -> None:
        old, self.counts = self.counts, self._engine.keep(counts)
        self._engine.drop(old)


def _large_domains(
    engine: Engine, clicks: ir.Table, items: ir.Table, config: DataConfig
) -> tuple[ir.Table, int]:
    """Drop small domains; return the clicks and how many were dropped."""
    counts = clicks.group_by("item").agg(events=lambda table: table.count()).join(items, "item")
    domains = counts.group_by("domain").agg(events=counts["events"].sum())
    domains = engine.keep(domains.filter(domains["events"] < config.min_domain_events))
    [row] = engine.records(domains.agg(events=domains["events"].sum()))
    dropped = int(row["events"] or 0)
    if dropped:
        small = engine.keep(items.semi_join(domains, "domain").select("item"))
        clicks = engine.keep(clicks.anti_join(small, "item"))
    return clicks, dropped
