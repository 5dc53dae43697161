"""The embedded history store: one SQLite file, durable before it acknowledges.

In WAL mode readers and the writer do not wait for each other, and a read after an acknowledged
write sees it. Several processes of one machine may share the file.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from crossfeed.errors import HistoryStoreError
from crossfeed.serving.histories.availability import ItemFlag
from crossfeed.serving.histories.history import DURABLE, Durability, Event, NewEvent
from crossfeed.serving.histories.pins import Pin
from crossfeed.serving.histories.sqlite.bulk import SqliteBulkHistories
from crossfeed.serving.histories.sqlite.connections import Connections
from crossfeed.serving.histories.sqlite.events import erase, insert, newest
from crossfeed.serving.histories.sqlite.facts import add_pin, flags_since, read_pins, set_flags
from crossfeed.serving.ids import Id

__all__ = ["SqliteHistoryStore"]

_BUSY_SECONDS = 10.0
_USERS_AT_ONCE = 1_000
"""Users in one query; SQLite allows 32,766 parameters."""
_ANY_EVENT = "SELECT 1 FROM events LIMIT 1"


class SqliteHistoryStore:
    """Histories in one SQLite file, or in memory, where readers take turns with the writer."""

    def __init__(self, path: Path | str | None, *, busy_seconds: float = _BUSY_SECONDS) -> None:
        """Open the file, or create it; None keeps histories in memory.

        A file of an older version is migrated in place.

        Raises:
            HistoryStoreError: it cannot be opened or is not a history store of this version.
        """
        self.path = None if path is None else Path(path)
        self.connections = Connections(self.path, busy_seconds=busy_seconds)
        self.bulk = SqliteBulkHistories(self.connections)
        """Fills, loads and exports the file."""

    def append(self, events: Sequence[NewEvent]) -> tuple[int, int]:
        """Store events; on return they are on disk.

        Returns:
            How many were new, and how many were not: an event id that is stored already keeps its
            first event, whatever the later ones hold, and a forgotten user's old events are gone.

        Raises:
            HistoryStoreError: nothing of it was stored.
        """
        rows = [(e.user_id, e.item_id, e.domain, e.timestamp, e.event_id) for e in events]
        accepted = self.connections.write(lambda connection: insert(connection, rows))
        return accepted, len(rows) - accepted

    def read_many(
        self, user_ids: Sequence[Id], *, limit: int | None = None
    ) -> list[Sequence[Event]]:
        """Return the newest events of each user by their time; ties as they came.

        Args:
            user_ids: the users.
            limit: how many events of each, at least 1; None for all.

        Raises:
            HistoryStoreError: the file cannot be read.
        """
        found: list[Sequence[Event]] = []
        for first in range(0, len(user_ids), _USERS_AT_ONCE):
            users = user_ids[first : first + _USERS_AT_ONCE]
            found += self.connections.read(partial(newest, user_ids=users, limit=limit))
        return found

    def forget(self, user_id: Id) -> int:
        """Erase all events of a user from the file and its log; return how many.

        Events of the user up to this moment are not stored again. The file is rewritten, which
        takes about a second for a million events; no event is stored meanwhile.

        Raises:
            HistoryStoreError: nothing was erased, or something still holds old pages of the file.
        """
        now = _milliseconds()
        return self.connections.write(partial(erase, user_id=user_id, now=now), then=self._rewrite)

    def set_available(self, flags: Sequence[ItemFlag]) -> int:
        """Set which items may be recommended; on return it is on disk.

        Raises:
            HistoryStoreError: nothing of it was stored.
        """
        return self.connections.write(partial(set_flags, flags=flags))

    def flags_since(self, sequence: int) -> tuple[Sequence[ItemFlag], int]:
        """Return the flags that changed after a sequence, and the sequence as of now.

        Raises:
            HistoryStoreError: the file cannot be read.
        """
        return self.connections.read(partial(flags_since, sequence=sequence))

    def pin(self, version: str, *, only_first: bool = False) -> Pin:
        """Put a model into service; return the pin in force.

        Args:
            version: the version of its bundle; pinning what is pinned changes nothing.
            only_first: change nothing either where any model is pinned.

        Raises:
            HistoryStoreError: nothing of it was stored.
        """
        now = _milliseconds()
        return self.connections.write(
            lambda connection: add_pin(connection, version, now=now, only_first=only_first)
        )

    def pins(self, *, limit: int) -> Sequence[Pin]:
        """Return the newest pins, newest first; the first is in force.

        Raises:
            HistoryStoreError: the file cannot be read.
        """
        return self.connections.read(partial(read_pins, limit=limit))

    def durability(self) -> Durability:
        """Return what becomes of acknowledged events when the process or the machine dies."""
        if self.path is None:
            return Durability(False, "histories are in memory and end with the process")
        return DURABLE

    def ping(self) -> None:
        """Check that the store can be written.

        Raises:
            HistoryStoreError: it cannot.
        """
        # Read to its end: an open cursor would keep alive the pages that `forget` erases.
        self.connections.write(lambda connection: connection.execute(_ANY_EVENT).fetchone())

    def close(self) -> None:
        """Finish what was asked for and let go of the file."""
        self.connections.close()

    def __str__(self) -> str:
        return str(self.connections)

    def _rewrite(self, connection: sqlite3.Connection) -> None:
        """Rewrite the file and empty its log.

        Deleting leaves copies of rows behind, even with SQLite's `secure_delete`: pages that were
        split once keep some in their gaps, and the write-ahead log keeps old pages.
        """
        if self.path is None:
            return
        connection.execute("VACUUM")
        busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise HistoryStoreError(
                f"the events are erased, but a reader keeps old pages of {self} alive",
                hint="forget the user again when the reader is done",
            )


def _milliseconds() -> int:
    return int(time.time() * 1000)
