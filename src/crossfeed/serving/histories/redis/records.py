"""Where a Redis server keeps histories, and what one event looks like there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from crossfeed.serving.histories.tables import Row
from crossfeed.serving.ids import Id, is_id

__all__ = [
    "COUNTER",
    "EVENT_IDS",
    "FACTS",
    "FLAGS_IN",
    "FLAGS_OUT",
    "FLAGS_SEQUENCE",
    "FORGOTTEN",
    "OLD_UNAVAILABLE",
    "PERIOD_SECONDS",
    "PING",
    "PINS",
    "SEQUENCE_DIGITS",
    "TIMELINES",
    "Members",
    "ValueRefused",
    "checked",
    "content",
    "event_id_keys",
    "parse",
    "timeline",
    "user_of",
]

COUNTER = "crossfeed:counter"
EVENT_IDS = "crossfeed:event-ids"
FACTS = "crossfeed:facts"
FLAGS_IN = "crossfeed:flags-in"
FLAGS_OUT = "crossfeed:flags-out"
FLAGS_SEQUENCE = "crossfeed:flags-version"
FORGOTTEN = "crossfeed:forgotten"
OLD_UNAVAILABLE = "crossfeed:unavailable"
"""Where version 1 kept the items that are not available."""
PING = "crossfeed:ping"
PINS = "crossfeed:pins"
TIMELINES = "crossfeed:timeline:"

SEQUENCE_DIGITS = 16
"""Digits before the content of a timeline's member."""

PERIOD_SECONDS = 30 * 86_400
"""How long one set takes the ids of events; it is looked into for one period more."""

_EXACT_TIMES = range(-(2**53), 2**53 + 1)
"""Scores are doubles: times beyond (285,000 years) would be rounded."""

Members = Iterable[Any]  # Any: redis-py names all that its settings could make of a reply
"""Members of a timeline and their scores, one pair each."""


class ValueRefused(Exception):
    """A row holds what no event can."""


def timeline(user_id: Id) -> str:
    """Return the key of a user's events; 7 and "7" are two users."""
    return f"{TIMELINES}{'i' if isinstance(user_id, int) else 's'}:{user_id}"


def event_id_keys(seconds: float) -> list[str]:
    """Return the sets of event ids that are looked into at a time: the present one first."""
    period = int(seconds // PERIOD_SECONDS)
    return [f"{EVENT_IDS}:{number}" for number in (period, period - 1)]


def user_of(key: str) -> Id:
    """Return the user whose events a key holds."""
    kind, _, user_id = key.removeprefix(TIMELINES).partition(":")
    return int(user_id) if kind == "i" else user_id


def content(item_id: Id, domain: str) -> str:
    """Return item and domain as JSON, always the same for the same."""
    return json.dumps([item_id, domain], ensure_ascii=False, separators=(",", ":"))


def checked(row: Row) -> Row:
    """Return a row that an event can be.

    Raises:
        ValueRefused: it holds a value of another type or range.
    """
    values: tuple[object, ...] = row  # what a file or a caller without types really gave
    user_id, item_id, domain, timestamp, event_id = values
    good = is_id(user_id) and is_id(item_id) and isinstance(domain, str)
    named = event_id is None or isinstance(event_id, str)
    if not (good and named and isinstance(timestamp, int) and timestamp in _EXACT_TIMES):
        raise ValueRefused("a value is none that an event can have")
    return row


def parse(user_id: Id, members: Members) -> list[Row]:
    """Return the rows of a timeline's members."""
    parts = [(member[SEQUENCE_DIGITS:].partition("\n"), score) for member, score in members]
    contents = json.loads(f"[{','.join(content for (content, _, _), _ in parts)}]")
    return [
        (user_id, item_id, domain, int(score), event_id or None)
        for (item_id, domain), ((_, _, event_id), score) in zip(contents, parts, strict=True)
    ]
