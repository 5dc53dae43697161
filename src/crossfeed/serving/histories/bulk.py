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
        """Store a bundle's histories if the store is new; return how many events."""

    def load(self, file: Path, *, user_ids: pa.DataType, item_ids: pa.DataType) -> tuple[int, int]:
        """Store the events of a Parquet file; return how many were new and how many were not.

        Ids become those of the log, whose types are given.
        """

    def export(self, out: Path, *, overwrite: bool = False) -> int:
        """Write all events as Parquet, which `load` reads; return how many."""
