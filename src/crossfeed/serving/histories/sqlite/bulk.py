"""Whole histories in and out of the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from crossfeed.serving.histories.sqlite.connections import Connections
from crossfeed.serving.histories.sqlite.events import insert, is_new
from crossfeed.serving.histories.tables import (
    ROWS_AT_ONCE,
    Row,
    open_events,
    rows_of,
    write_events,
)
from crossfeed.serving.ids import Id

__all__ = ["SqliteBulkHistories"]

_PAGE = """
SELECT sequence, user_id, item_id, domain, timestamp, event_id FROM events
WHERE sequence > ? ORDER BY sequence LIMIT ?
"""


class SqliteBulkHistories:
    """Fills, loads and exports a file, as `BulkHistories` says."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def is_new(self) -> bool:
        """Return whether the store never held an event; forgetting all does not make it new."""
        return self._connections.read(is_new)

    def fill(self, batches: Iterable[pa.RecordBatch], *, origin: str) -> int:
        """Fill a new store in one transaction: a process that dies leaves the store as it was."""

        def write(connection: sqlite3.Connection) -> int:
            if not is_new(connection):
                return 0
            connection.execute("INSERT OR REPLACE INTO facts VALUES ('filled_from', ?)", (origin,))
            return sum(insert(connection, rows_of(batch)) for batch in batches)

        return self._connections.write(write)

    def load(self, file: Path, *, user_ids: pa.DataType, item_ids: pa.DataType) -> tuple[int, int]:
        """Store a file in one transaction; after an error nothing of it is stored."""
        with open_events(file, user_ids=user_ids, item_ids=item_ids) as source:
            stored = self._connections.write(
                lambda connection: insert(connection, source.events, by_content=True)
            )
        return stored, source.rows - stored

    def export(self, out: Path, *, overwrite: bool = False) -> int:
        """Write all events in the order in which they came."""
        return write_events(out, self._pages(), store=self._connections, overwrite=overwrite)

    def _pages(self) -> Iterator[Sequence[Row]]:
        """Yield all events page by page, so that no reader holds the file for long."""
        last = 0
        while rows := self._page(last):
            last = rows[-1][0]
            yield [row[1:] for row in rows]

    def _page(self, last: int) -> list[tuple[int, Id, Id, str, int, str | None]]:
        return self._connections.read(
            lambda connection: connection.execute(_PAGE, (last, ROWS_AT_ONCE)).fetchall()
        )
