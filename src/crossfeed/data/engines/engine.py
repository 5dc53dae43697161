"""Engines evaluate table expressions. After the parsers, preparation knows only this interface.

`duckdb_engine` is embedded and the default; `spark_engine` is for logs that outgrow one machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import ibis.expr.types as ir
import pyarrow as pa

__all__ = ["BATCH_ROWS", "Engine"]

BATCH_ROWS = 1 << 18
"""Rows that leave an engine at a time."""


class Engine(Protocol):
    """Evaluates ibis expressions, and keeps on disk the tables that are needed more than once."""

    def adopt(self, name: str, table: ir.Table) -> ir.Table:
        """Return a table of the embedded engine, which parses logs, as one of this engine."""

    def table(self, name: str) -> ir.Table:
        """Return what `save` stored under a name, perhaps in a process before this one."""

    def save(self, name: str, table: ir.Table) -> str:
        """Store an expression so that a later process finds it; return the name to ask for."""

    def keep(self, table: ir.Table) -> ir.Table:
        """Evaluate an expression once and return its stored result."""

    def drop(self, table: ir.Table) -> None:
        """Free what `keep` stored."""

    def records(self, table: ir.Table) -> list[dict[str, Any]]:  # Any: the columns' own types
        """Return the rows of a small table, such as one row per domain."""

    def batches(self, table: ir.Table) -> Iterator[pa.RecordBatch]:
        """Stream the rows of a large table, in its order."""

    def count(self, table: ir.Table) -> int:
        """Return the number of rows."""
        [record] = self.records(table.aggregate(rows=table.count()))
        return int(record["rows"])
