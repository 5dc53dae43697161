"""Oddities in a log's clicks: ties, gaps, twin ids, suspected bots."""

from __future__ import annotations

from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from crossfeed.config import DataConfig
from crossfeed.data.dataset import ROW_ORDER
from crossfeed.data.engines.engine import Engine
from crossfeed.data.logs import LogRows
from crossfeed.data.logs.values.times import iso_time

__all__ = ["BOT_RULE", "LOOK_ALIKE", "Bot", "Oddities", "Twins", "WordsForMissing", "find_oddities"]

LOOK_ALIKE = "case, white space, invisible characters, the form of accents or a final .0"
"""The differences between twins."""
_EXAMPLES = 3
_WORDS = sorted({word.lower() for word in DataConfig().missing_values} | {"undefined"})
"""Texts that libraries write for a missing id."""
_DAY = 86_400_000
_BOT_CLICKS = 200
_BOT_TIMES = 50

BOT_RULE = (
    f"more than {_BOT_CLICKS} clicks in a day, and more than {_BOT_TIMES} times the median "
    "user's busiest day"
)
"""The rule for suspected bots."""


@dataclass(frozen=True)
class Twins:
    """Ids of one kind that look alike: `LOOK_ALIKE` says what they differ by."""

    kind: str
    """user_id, item_id or domain"""
    groups: int
    """How many ids would disappear if twins were merged."""
    examples: tuple[tuple[str, ...], ...]
    """The ids of the first groups."""


@dataclass(frozen=True)
class WordsForMissing:
    """Clicks with an id that is a word for a missing value, such as nan."""

    kind: str
    """user_id, item_id or domain"""
    clicks: dict[str, int]
    """By word."""


@dataclass(frozen=True)
class Bot:
    """A user with more clicks in a day than people make."""

    user_id: str
    clicks: int
    """On that day."""


@dataclass(frozen=True)
class Oddities:
    """Oddities of a log; none of them stops its preparation."""

    duplicates: int
    """Clicks with the same user, item, domain and time as another."""
    shared_items: int
    """Item ids in more than one domain; each pair of id and domain is an item of its own."""
    tied: int
    """Clicks at the same time as another click of the user, so that their order is unknown."""
    longest_gap_days: int
    """Days in a row without any click, between the first one and the last."""
    gap_after: str | None
    """The last day before that gap, ISO 8601."""
    twins: tuple[Twins, ...]
    words: tuple[WordsForMissing, ...]
    bots: tuple[Bot, ...]
    """The ten busiest, by BOT_RULE."""
    bot_count: int


def find_oddities(engine: Engine, clicks: ir.Table, rows: LogRows) -> Oddities:
    """Look for oddities.

    Args:
        engine: keeps the clicks.
        clicks: user_id, item_id, domain, time.
        rows: says how the log's ids and times are written.
    """
    timed = rows.time_unit != ROW_ORDER
    everything = ["user_id", "item_id", "domain", "time"]
    total = engine.count(clicks)
    distinct = engine.count(clicks.select(everything).distinct()) if timed else total
    domains = clicks.group_by("item_id").agg(domains=clicks["domain"].nunique())
    gap, after = _longest_gap(engine, clicks) if timed else (0, None)
    bots = _bots(engine, clicks) if timed else []
    texts = {"user_id": rows.user_ids, "item_id": rows.item_ids, "domain": "text"}
    twins = [_twins(engine, clicks, name) for name, kind in texts.items() if kind != "integer"]
    words = [_words(engine, clicks, name) for name, kind in texts.items() if kind != "integer"]
    return Oddities(
        duplicates=total - distinct,
        shared_items=engine.count(domains.filter(domains["domains"] > 1)),
        tied=_tied(engine, clicks) if timed else 0,
        longest_gap_days=gap,
        gap_after=after,
        twins=tuple(one for one in twins if one.groups),
        words=tuple(one for one in words if one.clicks),
        bots=tuple(bots[:10]),
        bot_count=len(bots),
    )


def _tied(engine: Engine, clicks: ir.Table) -> int:
    counts = clicks.group_by(["user_id", "time"]).agg(clicks=clicks.count())
    [row] = engine.records(
        counts.filter(counts["clicks"] > 1).agg(tied=lambda t: t["clicks"].sum())
    )
    return int(row["tied"] or 0)


def _longest_gap(engine: Engine, clicks: ir.Table) -> tuple[int, str | None]:
    days = clicks.select(day=clicks["time"] // _DAY).distinct()
    gaps = days.mutate(gap=days["day"].lead().over(order_by="day") - days["day"] - 1)
    [row] = engine.records(gaps.agg(gap=gaps["gap"].max(), day=gaps["day"].argmax(gaps["gap"])))
    if not row["gap"]:
        return 0, None
    return int(row["gap"]), iso_time(int(row["day"]) * _DAY)[:10]


def _bots(engine: Engine, clicks: ir.Table) -> list[Bot]:
    days = clicks.group_by("user_id", day=clicks["time"] // _DAY).agg(clicks=clicks.count())
    busiest = days.group_by("user_id").agg(clicks=days["clicks"].max())
    [row] = engine.records(busiest.agg(usual=busiest["clicks"].quantile(0.5)))
    least = max(_BOT_CLICKS, _BOT_TIMES * float(row["usual"] or 0))
    found = busiest.filter(busiest["clicks"] > least)
    ordered = found.order_by([found["clicks"].desc(), found["user_id"]])
    return [Bot(str(row["user_id"]), int(row["clicks"])) for row in engine.records(ordered)]


def _twins(engine: Engine, clicks: ir.Table, name: str) -> Twins:
    ids = clicks.select(id=clicks[name].cast("string")).distinct()
    composed = _nfc(ids["id"]).re_replace(r"\pZ+|\s+", " ").re_replace(r"\p{Cf}", "")
    spaced = composed.re_replace(r" +", " ").strip().lower()
    plain = ids.mutate(plain=spaced.re_replace(r"^(-?[0-9]+)[.]0+$", r"\1"))
    groups = plain.group_by("plain").agg(count=plain.count(), ids=plain["id"].collect())
    several = engine.keep(groups.filter(groups["count"] > 1))
    [row] = engine.records(several.agg(fewer=(several["count"] - 1).sum()))
    examples = engine.records(several.order_by("plain").limit(_EXAMPLES))
    return Twins(name, int(row["fewer"] or 0), tuple(tuple(sorted(one["ids"])) for one in examples))


def nfc_normalize(text: str) -> str:
    """Stands for the engine's function, which puts an accent into one character with its letter."""
    raise NotImplementedError


_nfc = ibis.udf.scalar.builtin(nfc_normalize)


def _words(engine: Engine, clicks: ir.Table, name: str) -> WordsForMissing:
    found = clicks.filter(clicks[name].lower().isin(_WORDS))
    counts = found.group_by(word=found[name]).agg(clicks=found.count())
    rows = engine.records(counts.order_by([counts["clicks"].desc(), "word"]))
    return WordsForMissing(name, {row["word"]: row["clicks"] for row in rows})
