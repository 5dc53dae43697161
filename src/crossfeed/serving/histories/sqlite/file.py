"""The file of the embedded history store: its tables, its marks, and what can go wrong with it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from crossfeed.errors import HistoryStoreError

__all__ = ["FORMAT_VERSION", "create", "hint_for", "open_file"]

FORMAT_VERSION = 3

_APPLICATION_ID = 0x63726664
"""Marks the file as crossfeed's ("crfd")."""

# Ids have no declared type: SQLite would turn "007" into 7 in a column of numbers, 7 into "7" in
# one of text. A sequence is never given twice, and so also tells whether there ever was an event.
_FIRST = (
    """
    CREATE TABLE events (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        user_id NOT NULL CHECK (typeof(user_id) IN ('text', 'integer')),
        item_id NOT NULL CHECK (typeof(item_id) IN ('text', 'integer')),
        domain TEXT NOT NULL,
        timestamp INTEGER NOT NULL CHECK (typeof(timestamp) = 'integer'),
        event_id TEXT UNIQUE
    )
    """,
    "CREATE INDEX events_of_user ON events (user_id, timestamp)",
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
)
_SECOND = (
    """
    CREATE TABLE unavailable (
        domain TEXT NOT NULL,
        item_id NOT NULL CHECK (typeof(item_id) IN ('text', 'integer')),
        PRIMARY KEY (domain, item_id)
    ) WITHOUT ROWID
    """,
)
# A flag keeps the sequence of its last change, so that readers ask for what changed since.
_THIRD = (
    """
    CREATE TABLE flags (
        domain TEXT NOT NULL,
        item_id NOT NULL CHECK (typeof(item_id) IN ('text', 'integer')),
        available INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        PRIMARY KEY (domain, item_id)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX flags_by_sequence ON flags (sequence)",
    "INSERT OR IGNORE INTO facts VALUES ('flags_version', '0')",
    """
    INSERT INTO flags
    SELECT domain, item_id, 0, (SELECT max(1, CAST(value AS INTEGER)) FROM facts
                                WHERE name = 'flags_version')
    FROM unavailable
    """,
    "DROP TABLE unavailable",
    "CREATE TABLE forgotten (user TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO facts VALUES ('salt', lower(hex(randomblob(32))))",
    """
    CREATE TABLE pins (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        version TEXT NOT NULL,
        timestamp INTEGER NOT NULL
    )
    """,
)
_STEPS = (_FIRST, _SECOND, _THIRD)
"""The SQL that makes a file of each format version from one of the version before."""

_WRITABLE = "it must be a file, readable and writable, in a folder that is so too"
_BUSY = "another process holds it: let that one finish, or end it"
_HINTS = {
    sqlite3.SQLITE_FULL: "free some space on its disk; what was acknowledged before is kept",
    sqlite3.SQLITE_IOERR: "look at its disk and quota; what was acknowledged before is kept",
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_CORRUPT: "put a backup in its place, or move it away and start afresh",
    sqlite3.SQLITE_NOTADB: "choose another file",
    sqlite3.SQLITE_READONLY: "make it writable, or choose another file",
    sqlite3.SQLITE_CONSTRAINT: "ids must be strings or integers, times integers; none is missing",
}


def create(file: Path) -> None:
    """Create an empty file that only its owner may read, unless it exists; sync its folder.

    Raises:
        HistoryStoreError: there is no place for it.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        folder = os.open(file.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise HistoryStoreError(
            f"cannot open the history store '{file}': {error.strerror}", hint=_WRITABLE
        ) from error


def open_file(file: Path | None, *, busy_seconds: float) -> sqlite3.Connection:
    """Connect to a store's file, or to one in memory; make its tables, or those that it lacks.

    Raises:
        HistoryStoreError: it is another program's database or of another format version.
        sqlite3.Error: it cannot be used.
    """
    connection = sqlite3.connect(
        ":memory:" if file is None else file,
        timeout=busy_seconds,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.execute("PRAGMA synchronous = FULL")
        if _version(connection, file) < FORMAT_VERSION:
            connection.execute("PRAGMA journal_mode = WAL")
            _make_tables(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def hint_for(error: Exception) -> str:
    """Return what to do about an error of SQLite or of the file system."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte tells the kind
    return _HINTS.get(code, _WRITABLE)


def _version(connection: sqlite3.Connection, file: Path | None) -> int:
    """Return the format version of our tables, 0 without any; refuse those of others."""
    [application] = connection.execute("PRAGMA application_id").fetchone()
    [version] = connection.execute("PRAGMA user_version").fetchone()
    [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != _APPLICATION_ID and (application or version or tables):
        raise HistoryStoreError(
            f"'{file}' is a database, but no history store of crossfeed", hint="choose another file"
        )
    if version not in range(FORMAT_VERSION + 1):
        raise HistoryStoreError(
            f"the history store '{file}' has format version {version}; this crossfeed reads "
            f"{FORMAT_VERSION} and older ones",
            hint="export it with the version that wrote it, then load it into a new one",
        )
    return int(version)


def _make_tables(connection: sqlite3.Connection) -> None:
    """Make the tables, or migrate those of an older version: all in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    [version] = connection.execute("PRAGMA user_version").fetchone()  # somebody may be faster
    for step in _STEPS[version:]:
        for statement in step:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
    connection.execute("COMMIT")
