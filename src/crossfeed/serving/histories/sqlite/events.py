"""Events in the file: written once each, read by user, erased with a tombstone."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable, Sequence

from crossfeed.serving.histories.forgetting import tombstone
from crossfeed.serving.histories.history import Event
from crossfeed.serving.histories.tables import Row
from crossfeed.serving.ids import Id

__all__ = ["erase", "insert", "is_new", "newest"]

_INSERT = """
INSERT INTO events (user_id, item_id, domain, timestamp, event_id) SELECT ?1, ?2, ?3, ?4, ?5
WHERE NOT EXISTS (SELECT 1 FROM forgotten WHERE user = ?6 AND until >= ?4)
{unless}
ON CONFLICT (event_id) DO NOTHING
"""
_KNOWN_BY_CONTENT = """
AND NOT EXISTS (SELECT 1 FROM events WHERE (user_id, item_id, domain, timestamp) = (?1, ?2, ?3, ?4))
"""
_NEWEST = """
WITH asked (place, user_id) AS (VALUES {users})
SELECT asked.place, events.item_id, events.domain, events.timestamp
FROM asked CROSS JOIN events ON events.sequence IN (
    SELECT sequence FROM events WHERE user_id = asked.user_id
    ORDER BY timestamp DESC, sequence DESC LIMIT ?
)
ORDER BY asked.place, events.timestamp, events.sequence
"""
_FORGET = """
INSERT INTO forgotten VALUES (?1, max(?2, (
    SELECT coalesce(max(timestamp), ?2) FROM events WHERE user_id = ?3
)))
ON CONFLICT (user) DO UPDATE SET until = max(until, excluded.until)
"""
_IS_NEW = "SELECT NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'events')"


def insert(connection: sqlite3.Connection, rows: Iterable[Row], *, by_content: bool = False) -> int:
    """Insert events; return how many were new.

    Args:
        connection: the writer's.
        rows: the events.
        by_content: an event is also known by user, item, domain and time together.
    """
    salt = _salt(connection)
    before = connection.total_changes
    statement = _INSERT.format(unless=_KNOWN_BY_CONTENT if by_content else "")
    connection.executemany(statement, ((*row, tombstone(row[0], salt=salt)) for row in rows))
    return connection.total_changes - before


def newest(
    connection: sqlite3.Connection, user_ids: Sequence[Id], limit: int | None
) -> list[list[Event]]:
    """Return the newest events of each user by their time; ties as they came."""
    query = _NEWEST.format(users=", ".join(["(?, ?)"] * len(user_ids)))
    asked = itertools.chain.from_iterable(enumerate(user_ids))
    found: list[list[Event]] = [[] for _ in user_ids]
    for place, *event in connection.execute(query, (*asked, -1 if limit is None else limit)):
        found[place].append(Event._make(event))
    return found


def erase(connection: sqlite3.Connection, user_id: Id, *, now: int) -> int:
    """Erase a user's events and leave a tombstone; return how many events."""
    user = tombstone(user_id, salt=_salt(connection))
    connection.execute(_FORGET, (user, now, user_id))
    return connection.execute("DELETE FROM events WHERE user_id = ?", (user_id,)).rowcount


def is_new(connection: sqlite3.Connection) -> bool:
    """Return whether there never was an event; a sequence is never given twice."""
    return bool(connection.execute(_IS_NEW).fetchone()[0])


def _salt(connection: sqlite3.Connection) -> str:
    [salt] = connection.execute("SELECT value FROM facts WHERE name = 'salt'").fetchone()
    return str(salt)
