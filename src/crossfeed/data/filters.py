"""Which clicks stay: the repeats policy, the k-core and the smallest domain.

Clicks are tables of codes: user, item, domain, time, tie (see `tables.encode`).
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
    # Domain and tie are the same for all clicks of a user on an item, so that time alone decides.
    grouped = clicks.group_by(["user", "item", *within]).agg(
        domain=clicks["domain"].min(),
        time=clicks["time"].min() if policy == "first" else clicks["time"].max(),
        tie=clicks["tie"].min(),
    )
    return grouped.select(*clicks.columns)


def filter_clicks(engine: Engine, clicks: ir.Table, config: DataConfig) -> Filtered:
    """Apply the k-core and the smallest domain alternately until all thresholds hold."""
    dropped = {"k-core": 0, "small domain": 0}
    kept = engine.keep(clicks)
    left = engine.count(kept)
    while True:
        before = left
        for reason, step in (("k-core", _k_core), ("small domain", _large_domains)):
            kept = step(engine, kept, config)
            remaining = engine.count(kept)
            dropped[reason] += left - remaining
            left = remaining
        if left == before:
            return Filtered(kept, dropped)


def _k_core(engine: Engine, clicks: ir.Table, config: DataConfig) -> ir.Table:
    """Drop rare users and items until none is left; the clicks are written once, at the end."""
    whole = left = engine.count(clicks)
    kept, small = clicks, list[ir.Table]()
    while left:
        users = engine.keep(_frequent(kept, "user", config.min_user_events))
        kept = kept.semi_join(users, "user")
        items = engine.keep(_frequent(kept, "item", config.min_item_events))
        small += [users, items]
        kept = clicks.semi_join(users, "user").semi_join(items, "item")
        before, left = left, engine.count(kept)
        if left == before:
            break
    if left < whole:
        clicks = _replace(engine, clicks, kept)
    for table in small:
        engine.drop(table)
    return clicks


def _large_domains(engine: Engine, clicks: ir.Table, config: DataConfig) -> ir.Table:
    domains = _frequent(clicks, "domain", config.min_domain_events)
    if engine.count(domains) == engine.count(clicks.select("domain").distinct()):
        return clicks
    return _replace(engine, clicks, clicks.semi_join(domains, "domain"))


def _frequent(clicks: ir.Table, key: str, least: int) -> ir.Table:
    counts = clicks.group_by(key).agg(events=lambda table: table.count())
    return counts.filter(counts["events"] >= least).select(key)


def _replace(engine: Engine, old: ir.Table, new: ir.Table) -> ir.Table:
    """Keep `new`, which is made from `old`, and free `old`."""
    kept = engine.keep(new)
    engine.drop(old)
    return kept
