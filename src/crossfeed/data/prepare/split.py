"""The three splits of a dataset's clicks into training, validation and test parts.

A split takes tables of codes (user, item, time, tie) and returns them with a `part`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from crossfeed.config import DataConfig, parse_time
from crossfeed.data.dataset import Part
from crossfeed.data.engines.engine import Engine
from crossfeed.data.prepare.filters import ORDER, drop_repeats, filter_clicks

__all__ = ["SPLITS", "Split", "SplitInput"]

_LEAST_FOR_LAST_OUT = 3
_BUCKETS = 1 << 14


@dataclass(frozen=True)
class SplitInput:
    """Clicks as codes, and the names of the codes."""

    clicks: ir.Table
    """user, item, time, tie; read only once if `data.repeats` is "first" """
    total: int
    """The number of clicks."""
    items: ir.Table
    """item, domain"""
    users: ir.Table
    """user, user_id"""
    domains: ir.Table
    """domain, domain_name"""


@dataclass(frozen=True)
class Split:
    """The clicks of a dataset, each with its part."""

    events: ir.Table
    """user, item, time, tie, part"""
    users: ir.Table
    """user, events"""
    items: ir.Table
    """item, clicks (training part), clicks_all, trained (whether the filters keep it)"""
    parts: dict[str, int]
    """How many events each part has, by the name of the `Part`."""
    dropped: dict[str, int]
    """The number of dropped clicks by reason."""
    untrained: dict[str, int]
    """How many training clicks are on items that the filters do not train, by filter."""
    cuts: dict[str, int]
    """When validation and test begin, in milliseconds since 1970; empty if not cut by time."""


def split_by_time(engine: Engine, given: SplitInput, config: DataConfig) -> Split:
    """Cut once in time for all domains.

    Every click stays. The filters see the training part alone, and choose the items that are
    trained; what exists does not depend on them, or an item's later clicks would show in it.
    """
    clicks = given.clicks
    unique = _unique(engine, clicks, config)
    validation, test = _cuts(engine, unique, config)
    parted = _with_time_parts(unique, validation, test)
    if config.repeats == "last":
        # A later repeat must not take a click out of the training part.
        parted = _last_of_first_part(_with_time_parts(clicks, validation, test))
    parted = engine.keep(parted)
    left = engine.count(parted)
    training = parted.filter(parted["part"] == Part.TRAIN.value)
    fitted = filter_clicks(engine, training, given.items, config)
    trained = fitted.items.select("item", trained=ibis.literal(True))
    items = _count_items(parted).left_join(trained, "item")
    return Split(
        events=parted,
        users=engine.keep(_count_users(parted)),
        items=engine.keep(
            items.select("item", "clicks", "clicks_all", trained=items["trained"].fill_null(False))
        ),
        parts=_count_parts(engine, parted),
        dropped={"repeat": given.total - left},
        untrained=fitted.dropped,
        cuts={"validation": validation, "test": test},
    )


def split_last_out(engine: Engine, given: SplitInput, config: DataConfig) -> Split:
    """Test on the last click of each (user, domain) with three or more, validate on the previous.

    Training sees clicks later than other users' tests: comparable with the literature, but not for
    product claims.
    """
    clicks, dropped = _filtered(engine, given, config)
    clicks = clicks.join(given.items, "item")
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
    return _split(engine, ranked.mutate(part=part), dropped)


def split_new_in_domain(engine: Engine, given: SplitInput, config: DataConfig) -> Split:
    """Hold out every click of some (user, domain) pairs; the first of each is evaluated.

    A hash of seed, user and domain chooses the pairs, so the order of rows does not matter.
    The pair
    of each user with the largest hash is never held out, so every user keeps a domain.
    """
    clicks, dropped = _filtered(engine, given, config)
    clicks = clicks.join(given.items, "item")
    pairs = clicks.select("user", "domain").distinct()
    named = pairs.join(given.users, "user").join(given.domains, "domain")
    key = ibis.literal(f"{config.split_seed}|") + named["user_id"].cast("string") + "|"
    drawn = engine.keep(
        named.select("user", "domain", draw=(key + named["domain_name"]).hexdigest("sha256"))
    )
    held_out = config.test_share + config.validation_share
    largest = drawn["draw"].max().over(group_by="user")
    eligible = drawn["draw"] < largest
    held = engine.keep(
        drawn.select(
            "user",
            "domain",
            use=ibis.cases(
                (eligible & (drawn["draw"] < _hex_share(config.test_share)), "test"),
                (eligible & (drawn["draw"] < _hex_share(held_out)), "validation"),
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
        (joined["use"] == "train", Part.TRAIN.value),
        ((joined["use"] == "test") & first, Part.TEST.value),
        (joined["use"] == "test", Part.TEST_REST.value),
        (first, Part.VALIDATION.value),
        else_=Part.VALIDATION_REST.value,
    )
    return _split(engine, joined.mutate(part=part), dropped)


SPLITS: dict[str, Callable[[Engine, SplitInput, DataConfig], Split]] = {
    "temporal": split_by_time,
    "last-out": split_last_out,
    "new-in-domain": split_new_in_domain,
}
"""The splits by the name of `data.split`."""


def _filtered(
    engine: Engine, given: SplitInput, config: DataConfig
) -> tuple[ir.Table, dict[str, int]]:
    unique = _unique(engine, given.clicks, config)
    repeats = given.total - engine.count(unique)
    filtered = filter_clicks(engine, unique, given.items, config)
    return filtered.clicks, {"repeat": repeats, **filtered.dropped}


def _unique(engine: Engine, clicks: ir.Table, config: DataConfig) -> ir.Table:
    if config.repeats == "keep":
        return clicks
    return engine.keep(drop_repeats(clicks, config.repeats))


def _split(engine: Engine, parted: ir.Table, dropped: dict[str, int]) -> Split:
    # Kept, because the windows that make the part should sort only once.
    events = engine.keep(
        parted.select("user", "item", "time", "tie", part=parted["part"].cast("int8"))
    )
    items = _count_items(events)
    return Split(
        events=events,
        users=engine.keep(_count_users(events)),
        items=engine.keep(items.mutate(trained=items["clicks"] > 0)),
        parts=_count_parts(engine, events),
        dropped=dropped,
        untrained={},
        cuts={},
    )


def _count_users(events: ir.Table) -> ir.Table:
    return events.group_by("user").agg(events=lambda table: table.count())


def _count_items(events: ir.Table) -> ir.Table:
    return events.group_by("item").agg(
        clicks=lambda table: (table["part"] == Part.TRAIN.value).cast("int64").sum(),
        clicks_all=lambda table: table.count(),
    )


def _count_parts(engine: Engine, events: ir.Table) -> dict[str, int]:
    counts = events.group_by("part").agg(events=lambda table: table.count())
    return {Part(row["part"]).name: row["events"] for row in engine.records(counts)}


def _cuts(engine: Engine, clicks: ir.Table, config: DataConfig) -> tuple[int, int]:
    """Return the times at which validation and test begin, as given or by their shares.

    Equal times stay on one side. A cut between two clicks is the interpolated quantile.
    """
    if config.split_times is not None:
        validation, test = map(parse_time, config.split_times)
        return validation, test
    [range_] = engine.records(
        clicks.agg(rows=clicks.count(), first=clicks["time"].min(), last=clicks["time"].max())
    )
    if not range_["rows"]:
        return 0, 0
    cuts = []
    for share in (1 - config.validation_share - config.test_share, 1 - config.test_share):
        position = share * (range_["rows"] - 1)
        below, above = (
            _time_of_rank(engine, clicks, rank, range_["first"], range_["last"])
            for rank in (math.floor(position), math.ceil(position))
        )
        cuts.append(math.ceil(below + (above - below) * (position - math.floor(position))))
    return cuts[0], cuts[1]


def _time_of_rank(engine: Engine, clicks: ir.Table, rank: int, first: int, last: int) -> int:
    """Return the time of the click with `rank` clicks before it in time order.

    The engines' quantiles hold every value in memory, or estimate. This function counts the clicks
    of `_BUCKETS` spans of time, then divides the right span again.
    """
    while first < last:
        width = (last - first) // _BUCKETS + 1
        inside = clicks.filter(clicks["time"].between(first, last))
        spans = inside.group_by(span=(inside["time"] - first) // width)
        counts = spans.agg(clicks=lambda table: table.count()).order_by("span")
        for row in engine.records(counts):
            if rank < row["clicks"]:
                break
            rank -= row["clicks"]
        first += int(row["span"]) * width
        last = min(last, first + width - 1)
    return first


def _with_time_parts(clicks: ir.Table, validation: int, test: int) -> ir.Table:
    part = ibis.cases(
        (clicks["time"] < validation, Part.TRAIN.value),
        (clicks["time"] < test, Part.VALIDATION.value),
        else_=Part.TEST.value,
    )
    return clicks.mutate(part=part.cast("int8"))


def _last_of_first_part(parted: ir.Table) -> ir.Table:
    last = drop_repeats(parted, "last", within=("part",))
    # Spark cannot read a window in a filter as ibis 12 writes it.
    firsts = last.group_by(["user", "item"]).agg(first_part=last["part"].min())
    joined = last.join(firsts, ["user", "item"])
    return joined.filter(joined["part"] == joined["first_part"]).drop("first_part")


def _hex_share(share: float) -> str:
    """Return the hexadecimal bound below which `share` of all hashes lie."""
    return f"{int(share * 2**32):08x}"
