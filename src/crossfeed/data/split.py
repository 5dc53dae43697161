"""The three ways to cut validation and test parts off a dataset's clicks.

A split takes tables of codes (user, item, domain, time, tie) and returns them with a `part`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from crossfeed.config import DataConfig
from crossfeed.data.dataset import Part
from crossfeed.data.engine import Engine
from crossfeed.data.filters import ORDER, drop_repeats, filter_clicks

__all__ = ["HELD_OUT_SHARE", "SPLITS", "Split", "SplitInput"]

HELD_OUT_SHARE = 0.1
"""Share of the events (temporal) or (user, domain) pairs (new-in-domain) in the test part, and
again in the validation part."""

_LEAST_FOR_LAST_OUT = 3


@dataclass(frozen=True)
class SplitInput:
    """Clicks as codes, and the names that the codes stand for."""

    clicks: ir.Table
    """user, item, domain, time, tie"""
    users: ir.Table
    """user, user_id"""
    domains: ir.Table
    """domain, domain_name"""


@dataclass(frozen=True)
class Split:
    """The clicks of a dataset, each with its part."""

    events: ir.Table
    """user, item, domain, time, tie, part"""
    dropped: dict[str, int]
    """How many clicks were dropped for which reason."""
    cuts: dict[str, int]
    """Where validation and test begin, in milliseconds since 1970; empty if not cut by time."""


def split_by_time(engine: Engine, given: SplitInput, config: DataConfig) -> Split:
    """Cut once in time for all domains; filters see the training part alone."""
    clicks = given.clicks
    total = engine.count(clicks)
    unique = engine.keep(drop_repeats(clicks, config.repeats))
    validation, test = (
        _time_at(engine, unique, share) for share in (1 - 2 * HELD_OUT_SHARE, 1 - HELD_OUT_SHARE)
    )
    parted = _with_time_parts(unique, validation, test)
    if config.repeats == "last":
        # A later repeat must not take a click out of the training part.
        parted = _last_of_first_part(_with_time_parts(clicks, validation, test))
        parted = engine.keep(parted)
    left = engine.count(parted)
    training = parted.filter(parted["part"] == Part.TRAIN.value)
    later = parted.filter(parted["part"] != Part.TRAIN.value)
    fitted = filter_clicks(engine, training, config)
    later_kept = engine.keep(later.semi_join(fitted.clicks.select("domain").distinct(), "domain"))
    lost = engine.count(later) - engine.count(later_kept)
    return Split(
        events=fitted.clicks.union(later_kept),
        dropped={
            "repeat": total - left,
            **fitted.dropped,
            "later click in a dropped domain": lost,
        },
        cuts={"validation": validation, "test": test},
    )


def split_last_out(engine: Engine, given: SplitInput, config: DataConfig) -> Split:
    """Test on the last click of each (user, domain) with at least three, validate on the previous.

    It trains on clicks later than other users' tests: comparable with the literature, but not
    for claims about a product.
    """
    clicks, dropped = _filtered(engine, given.clicks, config)
    pair = ["user", "domain"]
    from_end = ibis.row_number().over(
        group_by=pair, order_by=[clicks[name].desc() for name in ORDER]
    )
    size = clicks.count().over(group_by=pair)
    ranked = clicks.mutate(from_end=from_end, size=size)
    enough = ranked["size"] >= _LEAST_FOR_LAST_OUT
    part = ibis.cases(
        (enough & (ranked["from_end"] == 0), Part.TEST.value),
        (enough & (ranked["from_end"] == 1), Part.VALIDATION.value),
        else_=Part.TRAIN.value,
    )
    return Split(ranked.mutate(part=part).drop("from_end", "size"), dropped, cuts={})


def split_new_in_domain(engine: Engine, given: SplitInput, config: DataConfig) -> Split:
    """Hold out every click of some (user, domain) pairs; the first of each is evaluated.

    Which pairs is decided by a hash of seed, user and domain, not by the order of rows. The pair
    of each user with the largest hash is never held out, so every user keeps a domain.
    """
    clicks, dropped = _filtered(engine, given.clicks, config)
    pairs = clicks.select("user", "domain").distinct()
    named = pairs.join(given.users, "user").join(given.domains, "domain")
    key = ibis.literal(f"{config.split_seed}|") + named["user_id"].cast("string") + "|"
    drawn = engine.keep(
        named.select("user", "domain", draw=(key + named["domain_name"]).hexdigest("sha256"))
    )
    largest = drawn["draw"].max().over(group_by="user")
    eligible = drawn["draw"] < largest
    held = engine.keep(
        drawn.select(
            "user",
            "domain",
            kind=ibis.cases(
                (eligible & (drawn["draw"] < _hex_share(HELD_OUT_SHARE)), "test"),
                (eligible & (drawn["draw"] < _hex_share(2 * HELD_OUT_SHARE)), "validation"),
                else_="train",
            ),
        )
    )
    joined = clicks.join(held, ["user", "domain"])
    first = (
        ibis.row_number().over(
            group_by=["user", "domain"], order_by=[joined[name] for name in ORDER]
        )
        == 0
    )
    part = ibis.cases(
        (joined["kind"] == "train", Part.TRAIN.value),
        ((joined["kind"] == "test") & first, Part.TEST.value),
        (joined["kind"] == "test", Part.TEST_REST.value),
        (first, Part.VALIDATION.value),
        else_=Part.VALIDATION_REST.value,
    )
    return Split(joined.mutate(part=part).drop("kind"), dropped, cuts={})


SPLITS: dict[str, Callable[[Engine, SplitInput, DataConfig], Split]] = {
    "temporal": split_by_time,
    "last-out": split_last_out,
    "new-in-domain": split_new_in_domain,
}
"""The splits by the name of `data.split`."""


def _filtered(
    engine: Engine, clicks: ir.Table, config: DataConfig
) -> tuple[ir.Table, dict[str, int]]:
    total = engine.count(clicks)
    unique = engine.keep(drop_repeats(clicks, config.repeats))
    repeats = total - engine.count(unique)
    filtered = filter_clicks(engine, unique, config)
    return filtered.clicks, {"repeat": repeats, **filtered.dropped}


def _time_at(engine: Engine, clicks: ir.Table, share: float) -> int:
    """Return the time before which `share` of the clicks lie; equal times fall on one side."""
    [row] = engine.records(clicks.agg(time=clicks["time"].quantile(share)))
    return math.ceil(row["time"]) if row["time"] is not None else 0


def _with_time_parts(clicks: ir.Table, validation: int, test: int) -> ir.Table:
    part = ibis.cases(
        (clicks["time"] < validation, Part.TRAIN.value),
        (clicks["time"] < test, Part.VALIDATION.value),
        else_=Part.TEST.value,
    )
    return clicks.mutate(part=part)


def _last_of_first_part(parted: ir.Table) -> ir.Table:
    last = drop_repeats(parted, "last", within=("part",))
    first_part = last["part"].min().over(group_by=["user", "item"])
    return last.filter(last["part"] == first_part)


def _hex_share(share: float) -> str:
    """Return the hexadecimal text below which lies `share` of all hashes."""
    return f"{int(share * 2**32):08x}"
