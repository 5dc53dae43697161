"""Events in the file: written once each, read by user, erased with a tombstone."""

from __future__ import annotations

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
SELECT item_id, domain, timestamp FROM events WHERE user_id = ?
ORDER BY timestamp DESC, sequence DESC LIMIT ?
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
    """Return the newest events of each user by their time; ties as they came.

    A statement for each user: the index gives its order, and there is no server to wait for.
    """
    most = -1 if limit is None else limit
    found = (connection.execute(_NEWEST, (user_id, most)).fetchall() for user_id in user_ids)
    return [[Event._make(row) for row in reversed(rows)] for rows in found]


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
