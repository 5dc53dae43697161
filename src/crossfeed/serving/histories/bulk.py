"""Whole histories in and out of a history store: for its start and for the command line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import pyarrow as pa

__all__ = ["BulkHistories"]


class BulkHistories(Protocol):
    """Fills, loads and exports; every method raises HistoryStoreError where the store fails."""

    def is_new(self) -> bool:
        """Return whether the store was never filled and never given an event."""

    def fill(self, batches: Iterable[pa.RecordBatch], *, origin: str) -> int:
        """Store a bundle's histories if the store is new; return how many events.

        Only a new store is filled, so that a restart does not bring a forgotten user back.

        Args:
            batches: user_id, item_id, domain, timestamp (ms).
            origin: where they come from, kept in the store.
        """

    def load(self, file: Path, *, user_ids: pa.DataType, item_ids: pa.DataType) -> tuple[int, int]:
        """Store the events of a Parquet file such as `export` writes.

        An event is known by its event id, or by user, item, domain and time together: a bundle's
        histories have no event ids, and loading an export must not double them.

        Args:
            file: the file.
            user_ids: the type of the log's user ids, string or int64; the file's ids become it.
            item_ids: likewise of its item ids.

        Returns:
            How many were new, and how many were stored already or belong to a forgotten user.

        Raises:
            HistoryStoreError: the file cannot be read, or holds an id or a time that the service
                would refuse.
        """

    def export(self, out: Path, *, overwrite: bool = False) -> int:
        """Write all events as Parquet, which `load` reads; return how many.

        Raises:
            OutputError: `out` exists and may not be replaced, or cannot be written.
            HistoryStoreError: the store holds ids of two types.
        """
