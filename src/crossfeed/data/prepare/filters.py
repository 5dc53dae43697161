"""Filters of clicks: the repeats policy, the k-core and the smallest domain.

Clicks are tables of codes: user, item, time, tie (see `tables.encode`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import ibis
import ibis.expr.types as ir

from crossfeed.config import DataConfig
from crossfeed.data.engines.engine import Engine

__all__ = ["ORDER", "Filtered", "drop_repeats", "filter_clicks"]

ORDER = ("time", "tie", "item")
"""The order of a user's clicks: time, and among equal times a hash of the item."""


@dataclass(frozen=True)
class Filtered:
    """The clicks that stay, and the number of dropped clicks by reason."""

    clicks: ir.Table
    users: ir.Table
    """user, events: the clicks that stay, by user"""
    items: ir.Table
    """item, events: the same by item"""
    dropped: dict[str, int]


def drop_repeats(
    clicks: ir.Table, policy: Literal["first", "last", "keep"], *, within: tuple[str, ...] = ()
) -> ir.Table:
    """Keep one click of each (user, item), or of each (user, item, *within)."""
    if policy == "keep":
        return clicks
    # All clicks of a user on an item have the same tie, so only time decides.
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
    while True:
        core = _k_core(engine, clicks, config)
        small, lost = _small_domains(engine, core.items, items, config)
        dropped["k-core"] += core.dropped["k-core"]
        dropped["small domain"] += lost
        if not lost:
            return dataclasses.replace(core, dropped=dropped)
        clicks = core.clicks.anti_join(small, "item")


def _k_core(engine: Engine, clicks: ir.Table, config: DataConfig) -> Filtered:
    """Drop rare users and items until none is left.

    The clicks are counted once and never written. Each round follows the losses to the other side:
    the few clicks of users that became rare, then the clicks of items, and so on. The
    clicks that stay are an expression.
    """
    users = _Side(engine, clicks, "user", config.min_user_events)
    items = _Side(engine, clicks, "item", config.min_item_events)
    dropped = at_rest = 0
    side, other = users, items
    while at_rest < 2:
        lost = side.drop_rare(clicks, other)
        dropped += lost
        at_rest = 0 if lost else at_rest + 1
        side, other = other, side
    kept = items.without_gone(users.without_gone(clicks))
    return Filtered(kept, users.present(), items.present(), {"k-core": dropped})


class _Side:
    """The users, or the items, of a k-core: counts of the remaining ones, and the dropped."""

    def __init__(self, engine: Engine, clicks: ir.Table, key: str, least: int) -> None:
        self._engine, self._key, self._least = engine, key, least
        self._gone: list[ir.Table] = []
        self.counts = engine.keep(clicks.group_by(key).agg(events=lambda table: table.count()))
        """key, events"""

    def drop_rare(self, clicks: ir.Table, other: _Side) -> int:
        """Drop those with too few clicks, also from the other side's counts."""
        rare = self._engine.keep(
            self.counts.filter(self.counts["events"] < self._least).select(self._key)
        )
        if not self._engine.count(rare):
            self._engine.drop(rare)
            return 0
        self._gone.append(rare)
        self._replace(self.counts.filter(self.counts["events"] >= self._least))
        return other.take(clicks.semi_join(rare, self._key))

    def take(self, clicks: ir.Table) -> int:
        """Subtract clicks from the counts, except those of dropped users or items."""
        taken = clicks.group_by(self._key).agg(taken=lambda table: table.count())
        taken = self._engine.keep(taken.semi_join(self.counts, self._key))
        joined = self.counts.left_join(taken, self._key)
        left = joined["events"] - joined["taken"].fill_null(0)
        self._replace(joined.select(self._key, events=left))
        [row] = self._engine.records(taken.agg(taken=taken["taken"].sum()))
        self._engine.drop(taken)
        return int(row["taken"] or 0)

    def without_gone(self, clicks: ir.Table) -> ir.Table:
        """Return the clicks of the users or items that stay."""
        if not self._gone:
            return clicks
        return clicks.anti_join(self._engine.keep(ibis.union(*self._gone)), self._key)

    def present(self) -> ir.Table:
        """Return the counts of all with a click, without a threshold."""
        return self.counts.filter(self.counts["events"] > 0)

    def _replace(self, counts: ir.Table) -> None:
        old, self.counts = self.counts, self._engine.keep(counts)
        self._engine.drop(old)


def _small_domains(
    engine: Engine, counts: ir.Table, items: ir.Table, config: DataConfig
) -> tuple[ir.Table, int]:
    """Return the items of too small domains, and the number of their clicks."""
    named = counts.join(items, "item")
    domains = named.group_by("domain").agg(events=named["events"].sum())
    small = engine.keep(domains.filter(domains["events"] < config.min_domain_events))
    [row] = engine.records(small.agg(events=small["events"].sum()))
    return items.semi_join(small, "domain").select("item"), int(row["events"] or 0)
