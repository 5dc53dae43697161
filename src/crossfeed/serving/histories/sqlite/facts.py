"""Facts in the file that all processes share: which items are available, which model is pinned."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from crossfeed.serving.histories.availability import ItemFlag, latest_flags
from crossfeed.serving.histories.pins import Pin

__all__ = ["add_pin", "flags_since", "read_pins", "set_flags"]

_SEQUENCE = "SELECT CAST(value AS INTEGER) FROM facts WHERE name = 'flags_version'"
_TAKE_OUT = """
INSERT INTO flags VALUES (?1, ?2, 0, ?3)
ON CONFLICT (domain, item_id) DO UPDATE SET available = 0, sequence = ?3 WHERE available = 1
"""
_PUT_BACK = """
UPDATE flags SET available = 1, sequence = ?3 WHERE (domain, item_id) = (?1, ?2) AND available = 0
"""
_SINCE = """
SELECT item_id, domain, available FROM flags
WHERE sequence > ?1 AND (?1 > 0 OR available = 0) ORDER BY sequence
"""
_PIN = """
INSERT INTO pins (version, timestamp) SELECT ?1, ?2 WHERE NOT EXISTS (
    SELECT 1 FROM (SELECT version FROM pins ORDER BY sequence DESC LIMIT 1)
    WHERE ?3 OR version = ?1
)
"""
_PINS = "SELECT sequence, version, timestamp FROM pins ORDER BY sequence DESC LIMIT ?"


def set_flags(connection: sqlite3.Connection, flags: Sequence[ItemFlag]) -> int:
    """Set flags under one new sequence; return how many changed."""
    [sequence] = connection.execute(_SEQUENCE).fetchone()
    sequence += 1
    latest = latest_flags(flags).items()
    before = connection.total_changes
    out = [(*item, sequence) for item, there in latest if not there]
    back = [(*item, sequence) for item, there in latest if there]
    connection.executemany(_TAKE_OUT, out)
    connection.executemany(_PUT_BACK, back)
    changed = connection.total_changes - before
    if changed:
        connection.execute(
            "UPDATE facts SET value = ? WHERE name = 'flags_version'", (str(sequence),)
        )
    return changed


def flags_since(connection: sqlite3.Connection, sequence: int) -> tuple[list[ItemFlag], int]:
    """Return the flags that changed after a sequence, and the sequence as of now."""
    # The sequence first: a change between the two reads is then read once more, not missed.
    [now] = connection.execute(_SEQUENCE).fetchone()
    if now == sequence:
        return [], now
    rows = connection.execute(_SINCE, (sequence,)).fetchall()
    return [ItemFlag(item_id, domain, bool(there)) for item_id, domain, there in rows], now


def add_pin(connection: sqlite3.Connection, version: str, *, now: int, only_first: bool) -> Pin:
    """Pin a version where it is another one than before; return the pin in force."""
    connection.execute(_PIN, (version, now, only_first))
    return read_pins(connection, 1)[0]


def read_pins(connection: sqlite3.Connection, limit: int) -> list[Pin]:
    """Return the newest pins, newest first."""
    return [Pin(*row) for row in connection.execute(_PINS, (limit,))]
