"""The embedded history store: SQLite, durable before it acknowledges.

Writes go through one thread that puts what waits into one transaction (group commit), because
every store is bound by the same few milliseconds of a sync: one sync then serves many requests.
Each reading thread has a connection of its own; in WAL mode readers and the writer do not wait
for each other, and a read after an acknowledged write sees it.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from crossfeed.errors import HistoryStoreError
from crossfeed.files import atomic_path, require_free
from crossfeed.serving.history import Event, Id, NewEvent

__all__ = ["SqliteHistoryStore", "open_store"]

_FORMAT_VERSION = 1
_JOBS_AT_ONCE = 256
_ROWS_AT_ONCE = 50_000
_BUSY_SECONDS = 10

# STRICT with ANY keeps an id as it came: 7 stays a number and '007' a text.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    sequence INTEGER PRIMARY KEY,
    user_id ANY NOT NULL,
    item_id ANY NOT NULL,
    domain TEXT NOT NULL,
    timestamp INTEGER NOT NULL,
    event_id TEXT UNIQUE
) STRICT;
CREATE INDEX IF NOT EXISTS events_of_user ON events (user_id, timestamp, sequence);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""


@dataclass(frozen=True)
class _Job:
    """Something to write, and who waits for it."""

    write: Callable[[sqlite3.Connection], int]
    done: Future[int]
    erases: bool = False


class SqliteHistoryStore:
    """Histories in one SQLite file, for one process or several on one machine."""

    def __init__(self, path: Path | str) -> None:
        """Open the file, or make it where there is none.

        Raises:
            HistoryStoreError: it cannot be opened or is no history store of this version.
        """
        self.path = Path(path)
        self._local = threading.local()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        connection = self._connect()
        try:
            connection.executescript(_SCHEMA)
            self._require_version(connection)
        except sqlite3.Error as error:
            connection.close()
            raise self._failure("open", error) from error
        self._writer = threading.Thread(
            target=self._write_jobs, args=(connection,), name="history-writer", daemon=True
        )
        self._writer.start()

    def append(self, events: Sequence[NewEvent]) -> tuple[int, int]:
        """Store events; on return they are on disk.

        Returns:
            How many were new, and how many had an event id that is stored already.

        Raises:
            HistoryStoreError: nothing of it was stored.
        """
        rows = [
            (event.user_id, event.item_id, event.domain, event.timestamp, event.event_id)
            for event in events
        ]
        accepted = self._write(lambda connection: _insert(connection, rows))
        return accepted, len(rows) - accepted

    def read(self, user_id: Id) -> Sequence[Event]:
        """Return all events of a user by their time, also those that came late.

        Raises:
            HistoryStoreError: the file cannot be read.
        """
        statement = (
            "SELECT item_id, domain, timestamp FROM events WHERE user_id = ? "
            "ORDER BY timestamp, sequence"
        )
        try:
            return [Event(*row) for row in self._reader().execute(statement, (user_id,))]
        except sqlite3.Error as error:
            raise self._failure("read", error) from error

    def forget(self, user_id: Id) -> int:
        """Erase all events of a user, overwriting them in the file; return how many.

        Raises:
            HistoryStoreError: nothing was erased.
        """

        def erase(connection: sqlite3.Connection) -> int:
            return connection.execute("DELETE FROM events WHERE user_id = ?", (user_id,)).rowcount

        return self._write(erase, erases=True)

    def fill(self, batches: Iterable[pa.RecordBatch], *, origin: str) -> int:
        """Store a bundle's histories, once in the life of the store; return how many events.

        It happens once so that a user who was forgotten does not come back with a restart. All of
        it is one transaction: a process that dies leaves the store as it was.

        Args:
            batches: user_id, item_id, domain, timestamp (ms).
            origin: where they come from, kept as a fact.
        """

        def write(connection: sqlite3.Connection) -> int:
            if connection.execute("SELECT 1 FROM facts WHERE name = 'filled_from'").fetchone():
                return 0
            connection.execute("INSERT INTO facts VALUES ('filled_from', ?)", (origin,))
            return sum(_insert(connection, _rows(batch)) for batch in batches)

        return self._write(write)

    def load(self, file: Path) -> tuple[int, int]:
        """Store the events of a Parquet file such as `export` writes.

        Returns:
            How many were new, and how many had an event id that is stored already.

        Raises:
            HistoryStoreError: the file cannot be read; nothing of it was stored.
        """
        try:
            with pq.ParquetFile(file) as source:
                total = source.metadata.num_rows
                new = self._write(
                    lambda connection: sum(
                        _insert(connection, _rows(batch)) for batch in source.iter_batches()
                    )
                )
        except (OSError, KeyError, pa.ArrowException) as error:
            raise HistoryStoreError(
                f"cannot load '{file}': {error}",
                hint="it must be Parquet with user_id, item_id, domain and timestamp (ms)",
            ) from error
        return new, total - new

    def export(self, out: Path, *, overwrite: bool = False) -> int:
        """Write all events as Parquet, by user and time; return how many.

        Raises:
            OutputError: `out` exists and may not be replaced, or cannot be written.
            HistoryStoreError: the file cannot be read.
        """
        require_free(out, overwrite=overwrite)
        written = 0
        with atomic_path(out) as temporary:
            schema = self._schema()
            with pq.ParquetWriter(temporary, schema) as writer:
                for rows in self._all_rows():
                    columns = list(zip(*rows, strict=True))
                    writer.write_table(
                        pa.table(dict(zip(schema.names, columns, strict=True)), schema)
                    )
                    written += len(rows)
        return written

    def ping(self) -> None:
        """Check that the store can be read.

        Raises:
            HistoryStoreError: it cannot.
        """
        try:
            self._reader().execute("SELECT 1 FROM facts LIMIT 1").fetchall()
        except sqlite3.Error as error:
            raise self._failure("read", error) from error
        if not self._writer.is_alive():
            raise HistoryStoreError(f"the history store '{self.path}' no longer takes events")

    def close(self) -> None:
        """Finish what was asked for and let go of the file."""
        if not self._closed.is_set():
            self._closed.set()
            self._jobs.put(None)
            self._writer.join()

    def _write(self, write: Callable[[sqlite3.Connection], int], *, erases: bool = False) -> int:
        if self._closed.is_set():
            raise HistoryStoreError(f"the history store '{self.path}' is closed")
        job = _Job(write, Future(), erases)
        self._jobs.put(job)
        try:
            return job.done.result()
        except sqlite3.Error as error:
            raise self._failure("write", error) from error

    def _write_jobs(self, connection: sqlite3.Connection) -> None:
        """Write what waits, many jobs in one transaction, until the store is closed."""
        while True:
            first = self._jobs.get()
            if first is None:
                break
            jobs, closing = [first], False
            while len(jobs) < _JOBS_AT_ONCE and not self._jobs.empty():
                following = self._jobs.get()
                if following is None:
                    closing = True
                    break
                jobs.append(following)
            _commit(connection, jobs)
            if closing:
                break
        connection.close()

    def _reader(self) -> sqlite3.Connection:
        """Return this thread's own connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
        return connection

    def _connect(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
                connection.execute(f"PRAGMA {pragma}")
        except (OSError, sqlite3.Error) as error:
            raise self._failure("open", error) from error
        return connection

    def _require_version(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT OR IGNORE INTO facts VALUES ('format_version', ?)", (str(_FORMAT_VERSION),)
        )
        [version] = connection.execute(
            "SELECT value FROM facts WHERE name = 'format_version'"
        ).fetchone()
        if version != str(_FORMAT_VERSION):
            raise HistoryStoreError(
                f"the history store '{self.path}' has format version {version}; this crossfeed "
                f"reads {_FORMAT_VERSION}",
                hint="export it with the version that wrote it, then load it into a new one",
            )

    def _schema(self) -> pa.Schema:
        """Return the columns of an export, the ids as they are stored."""
        kinds = {
            name: self._reader().execute(f"SELECT typeof({name}) FROM events LIMIT 1").fetchone()
            for name in ("user_id", "item_id")
        }
        types = {
            name: pa.int64() if kind == ("integer",) else pa.string()
            for name, kind in kinds.items()
        }
        rest = {"domain": pa.string(), "timestamp": pa.int64(), "event_id": pa.string()}
        return pa.schema({**types, **rest})

    def _all_rows(self) -> Iterator[list[tuple[object, ...]]]:
        statement = (
            "SELECT user_id, item_id, domain, timestamp, event_id FROM events "
            "ORDER BY user_id, timestamp, sequence"
        )
        try:
            cursor = self._reader().execute(statement)
            while rows := cursor.fetchmany(_ROWS_AT_ONCE):
                yield rows
        except sqlite3.Error as error:
            raise self._failure("read", error) from error

    def _failure(self, verb: str, error: Exception) -> HistoryStoreError:
        return HistoryStoreError(
            f"cannot {verb} the history store '{self.path}': {error}",
            hint="check the file, its folder's permissions and the free space",
        )


def open_store(url: str) -> SqliteHistoryStore:
    """Open the history store that a URL names.

    Args:
        url: `sqlite:///relative.sqlite` or `sqlite:////absolute.sqlite`.

    Raises:
        HistoryStoreError: the URL names no kind of store that there is, or it cannot be opened.
    """
    prefix = "sqlite:///"
    if not url.startswith(prefix) or url == prefix:
        raise HistoryStoreError(
            f"'{url.partition('://')[0]}' is no kind of history store that this version has",
            hint="name a file: sqlite:///histories.sqlite",
        )
    return SqliteHistoryStore(url.removeprefix(prefix))


def _insert(connection: sqlite3.Connection, rows: Iterable[Sequence[object]]) -> int:
    """Insert user_id, item_id, domain, timestamp, event_id; return how many were new."""
    before = connection.total_changes
    connection.executemany(
        "INSERT INTO events (user_id, item_id, domain, timestamp, event_id) "
        "VALUES (?, ?, ?, ?, ?) ON CONFLICT (event_id) DO NOTHING",
        rows,
    )
    return connection.total_changes - before


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[object, ...]]:
    names = ["user_id", "item_id", "domain", "timestamp"]
    columns = [batch[name].to_pylist() for name in names]
    has_ids = "event_id" in batch.schema.names
    columns.append(batch["event_id"].to_pylist() if has_ids else [None] * batch.num_rows)
    return zip(*columns, strict=True)


def _commit(connection: sqlite3.Connection, jobs: Sequence[_Job]) -> None:
    """Write several jobs in one transaction; each job succeeds or fails on its own."""
    results: list[int | BaseException] = []
    try:
        connection.execute("BEGIN IMMEDIATE")
        for job in jobs:
            results.append(_attempt(connection, job))
        connection.execute("COMMIT")
        if any(job.erases for job in jobs):
            _truncate_log(connection)
    except sqlite3.Error as error:  # nothing of the transaction is on disk
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        results = [error] * len(jobs)
    for job, result in zip(jobs, results, strict=True):
        if isinstance(result, BaseException):
            job.done.set_exception(result)
        else:
            job.done.set_result(result)


def _attempt(connection: sqlite3.Connection, job: _Job) -> int | BaseException:
    connection.execute("SAVEPOINT job")
    try:
        result: int | BaseException = job.write(connection)
    except Exception as error:  # handed to whoever waits for the job
        if not connection.in_transaction:  # a full disk ends the whole transaction
            raise sqlite3.OperationalError(str(error)) from error
        connection.execute("ROLLBACK TO job")
        result = error
    connection.execute("RELEASE job")
    return result


def _truncate_log(connection: sqlite3.Connection) -> None:
    """Empty the write-ahead log, in which erased rows would stay; readers may hold it a moment."""
    for _ in range(50):
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            return
        time.sleep(0.02)
