"""The embedded history store: one SQLite file, durable before it acknowledges.

In WAL mode readers and the writer do not wait for each other, and a read after an acknowledged
write sees it. Several processes of one machine may share the file.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from crossfeed.errors import HistoryStoreError
from crossfeed.serving.histories.availability import ItemFlag, Unavailable, latest_flags
from crossfeed.serving.histories.group_commit import GroupCommit
from crossfeed.serving.histories.history import DURABLE, Durability, Event, NewEvent
from crossfeed.serving.histories.sqlite.file import create, hint_for, open_file
from crossfeed.serving.histories.tables import (
    ROWS_AT_ONCE,
    Row,
    open_events,
    rows_of,
    write_events,
)
from crossfeed.serving.ids import Id

__all__ = ["SqliteHistoryStore"]

T = TypeVar("T")

_BUSY_SECONDS = 10.0

_INSERT = """
INSERT INTO events (user_id, item_id, domain, timestamp, event_id) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (event_id) DO NOTHING
"""
_ADD = """
INSERT INTO events (user_id, item_id, domain, timestamp, event_id) SELECT ?1, ?2, ?3, ?4, ?5
WHERE NOT EXISTS (
    SELECT 1 FROM events WHERE (user_id, item_id, domain, timestamp) = (?1, ?2, ?3, ?4)
)
ON CONFLICT (event_id) DO NOTHING
"""
_READ = """
WITH asked (place, user_id) AS (VALUES {users})
SELECT asked.place, events.item_id, events.domain, events.timestamp
FROM asked CROSS JOIN events ON events.sequence IN (
    SELECT sequence FROM events WHERE user_id = asked.user_id
    ORDER BY timestamp DESC, sequence DESC LIMIT ?
)
ORDER BY asked.place, events.timestamp, events.sequence
"""
_USERS_AT_ONCE = 1_000
"""Users in one query; SQLite allows 32,766 parameters."""
_PAGE = """
SELECT sequence, user_id, item_id, domain, timestamp, event_id FROM events
WHERE sequence > ? ORDER BY sequence LIMIT ?
"""
_FLAGS_VERSION = "SELECT CAST(value AS INTEGER) FROM facts WHERE name = 'flags_version'"
_COUNT_FLAGS = """
INSERT INTO facts VALUES ('flags_version', 1)
ON CONFLICT (name) DO UPDATE SET value = CAST(value AS INTEGER) + 1
"""
_TAKE_OUT = "INSERT OR IGNORE INTO unavailable (domain, item_id) VALUES (?, ?)"
_PUT_BACK = "DELETE FROM unavailable WHERE (domain, item_id) = (?, ?)"
_ANY_EVENT = "SELECT 1 FROM events LIMIT 1"
_IS_NEW = "SELECT NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'events')"


class SqliteHistoryStore:
    """Histories in one SQLite file, or in memory, where readers take turns with the writer."""

    def __init__(self, path: Path | str | None, *, busy_seconds: float = _BUSY_SECONDS) -> None:
        """Open the file, or make it where there is none; None keeps histories in memory.

        Raises:
            HistoryStoreError: it cannot be opened or is no history store of this version.
        """
        self.path = None if path is None else Path(path)
        self._busy_seconds = busy_seconds
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._closed = threading.Event()
        if self.path is not None:
            create(self.path)
        with self._errors("open"):
            self._writer = GroupCommit(open_file(self.path, busy_seconds=busy_seconds))

    def append(self, events: Sequence[NewEvent]) -> tuple[int, int]:
        """Store events; on return they are on disk.

        Returns:
            How many were new, and how many had an event id that is stored already; of those the
            first stays, whatever the later ones hold.

        Raises:
            HistoryStoreError: nothing of it was stored.
        """
        rows = [(e.user_id, e.item_id, e.domain, e.timestamp, e.event_id) for e in events]
        accepted = self._write(lambda connection: _insert(connection, rows))
        return accepted, len(rows) - accepted

    def read(self, user_id: Id) -> Sequence[Event]:
        """Return all events of a user by their time, also those that came late; ties as they came.

        Raises:
            HistoryStoreError: the file cannot be read.
        """
        return self.read_many([user_id])[0]

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
            found += self._read(partial(_newest, user_ids=users, limit=limit))
        return found

    def forget(self, user_id: Id) -> int:
        """Erase all events of a user from the file and its log; return how many.

        The file is written anew, which takes about a second for a million events, in which no
        event is stored.

        Raises:
            HistoryStoreError: nothing was erased, or something still holds old pages of the file.
        """

        def erase(connection: sqlite3.Connection) -> int:
            return connection.execute("DELETE FROM events WHERE user_id = ?", (user_id,)).rowcount

        with self._errors("write"):
            return self._writer.run(erase, then=self._rewrite)

    def set_available(self, flags: Sequence[ItemFlag]) -> int:
        """Set which items may be recommended; on return it is on disk.

        Raises:
            HistoryStoreError: nothing of it was stored.
        """
        latest = latest_flags(flags)

        def write(connection: sqlite3.Connection) -> int:
            before = connection.total_changes
            connection.executemany(_TAKE_OUT, [item for item, there in latest.items() if not there])
            connection.executemany(_PUT_BACK, [item for item, there in latest.items() if there])
            changed = connection.total_changes - before
            if changed:
                connection.execute(_COUNT_FLAGS)
            return changed

        return self._write(write)

    def unavailable(self, *, since: int | None) -> Unavailable | None:
        """Return the items that are not available; None where nothing changed since a version.

        Raises:
            HistoryStoreError: the file cannot be read.
        """

        def read(connection: sqlite3.Connection) -> Unavailable | None:
            # The version first: a change between the two reads is then read once more, not missed.
            [version] = connection.execute(_FLAGS_VERSION).fetchone() or (0,)
            if version == since:
                return None
            items = connection.execute("SELECT domain, item_id FROM unavailable").fetchall()
            return Unavailable(version, frozenset(items))

        return self._read(read)

    def is_new(self) -> bool:
        """Return whether the store never held an event; once it did, not even forgetting all."""
        return bool(self._read(lambda connection: connection.execute(_IS_NEW).fetchone()[0]))

    def fill(self, batches: Iterable[pa.RecordBatch], *, origin: str) -> int:
        """Store a bundle's histories if the store is new; return how many events.

        It happens in a new one alone, so that a user who was forgotten does not come back with a
        restart. All of it is one transaction: a process that dies leaves the store as it was.

        Args:
            batches: user_id, item_id, domain, timestamp (ms).
            origin: where they come from, kept in the store.
        """

        def write(connection: sqlite3.Connection) -> int:
            if not connection.execute(_IS_NEW).fetchone()[0]:
                return 0
            connection.execute("INSERT OR REPLACE INTO facts VALUES ('filled_from', ?)", (origin,))
            return sum(_insert(connection, rows_of(batch)) for batch in batches)

        return self._write(write)

    def load(self, file: Path, *, user_ids: pa.DataType, item_ids: pa.DataType) -> tuple[int, int]:
        """Store the events of a Parquet file such as `export` writes.

        An event is known by its event id, or by user, item, domain and time together: a bundle's
        histories have no event ids, and loading what was exported must not double them.

        Args:
            file: the file.
            user_ids: the type of the log's user ids, string or int64, which those of the file
                become.
            item_ids: likewise of its item ids.

        Returns:
            How many were new, and how many were stored already.

        Raises:
            HistoryStoreError: the file cannot be read, or holds an id or a time that the service
                would refuse; nothing of it was stored.
        """
        with open_events(file, user_ids=user_ids, item_ids=item_ids) as source:
            stored = self._write(lambda connection: _insert(connection, source.events, _ADD))
        return stored, source.rows - stored

    def export(self, out: Path, *, overwrite: bool = False) -> int:
        """Write all events as Parquet, in the order in which they came; return how many.

        Raises:
            OutputError: `out` exists and may not be replaced, or cannot be written.
            HistoryStoreError: the file cannot be read, or holds ids of two types.
        """
        return write_events(out, self._pages(), store=self, overwrite=overwrite)

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
        self._write(lambda connection: connection.execute(_ANY_EVENT).fetchone())

    def close(self) -> None:
        """Finish what was asked for and let go of the file."""
        self._closed.set()
        self._writer.close()
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    def __str__(self) -> str:
        return "in memory" if self.path is None else f"'{self.path}'"

    def _write(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        with self._errors("write"):
            return self._writer.run(operation)

    def _read(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        if self.path is None:
            return self._write(operation)
        with self._errors("read"), self._reader() as connection:
            return operation(connection)

    @contextlib.contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection to one reader at a time."""
        if self._closed.is_set():
            raise HistoryStoreError("the history store is closed")
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = open_file(self.path, busy_seconds=self._busy_seconds)
        try:
            yield connection
        finally:
            if self._closed.is_set():
                connection.close()
            else:
                self._idle.put(connection)

    def _rewrite(self, connection: sqlite3.Connection) -> None:
        """Write the file anew and cut its log to nothing.

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

    def _pages(self) -> Iterator[Sequence[Row]]:
        """Yield all events page by page, so that no reader holds the file for long."""
        last = 0
        while rows := self._page(last):
            last = rows[-1][0]
            yield [row[1:] for row in rows]

    def _page(self, last: int) -> list[tuple[int, Id, Id, str, int, str | None]]:
        return self._read(
            lambda connection: connection.execute(_PAGE, (last, ROWS_AT_ONCE)).fetchall()
        )

    @contextlib.contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OverflowError) as error:
            raise HistoryStoreError(
                f"cannot {verb} the history store {self}: {error}", hint=hint_for(error)
            ) from error


def _newest(
    connection: sqlite3.Connection, user_ids: Sequence[Id], limit: int | None
) -> list[list[Event]]:
    query = _READ.format(users=", ".join(["(?, ?)"] * len(user_ids)))
    asked = itertools.chain.from_iterable(enumerate(user_ids))
    found: list[list[Event]] = [[] for _ in user_ids]
    for place, *event in connection.execute(query, (*asked, -1 if limit is None else limit)):
        found[place].append(Event._make(event))
    return found


def _insert(connection: sqlite3.Connection, rows: Iterable[Row], statement: str = _INSERT) -> int:
    """Insert rows; return how many were new."""
    before = connection.total_changes
    connection.executemany(statement, rows)
    return connection.total_changes - before
