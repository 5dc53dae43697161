"""The embedded engine: DuckDB behind ibis, in a scratch folder."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa

from crossfeed.data.engines.engine import BATCH_ROWS, Engine
from crossfeed.data.engines.sql import quoted_text
from crossfeed.errors import ConfigError, OutputError
from crossfeed.files import require_writable

__all__ = ["DuckDBEngine", "did_not_fit", "open_duckdb"]

_SIZE = re.compile(r"[1-9]\d*(\.\d+)? ?[KMGT](i?B)?", re.IGNORECASE)

_USUAL_LIMIT_MIB = 3 << 10
_KEPT = "kept_"
_FILE_SIZE = "256MB"


class DuckDBEngine(Engine):
    """Evaluates ibis expressions in DuckDB; the parsers use its connection."""

    def __init__(self, scratch: Path, *, memory_limit: str | None = None) -> None:
        self.scratch = scratch
        self._backend = ibis.duckdb.connect(
            scratch / "work.duckdb",
            temp_directory=str(scratch / "spill"),
            memory_limit=memory_limit or _default_limit(),
            # Nothing is fetched from the network behind the user's back.
            autoinstall_known_extensions=False,
            TimeZone="UTC",
        )
        # Expressions state an order if it counts; the parsers state the order of rows.
        self.connection.execute("SET preserve_insertion_order = false")
        # Kept tables are read once or twice: choosing a compression takes longer than it saves.
        self.connection.execute("SET force_compression = 'uncompressed'")
        # Not ibis' list_tables, which calls a function that DuckDB 2.0 removed.
        found = self.connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
        taken = [str(name).removeprefix(_KEPT) for (name,) in found]
        self._numbers = itertools.count(max((int(n) + 1 for n in taken if n.isdigit()), default=0))

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """Return the connection, for the parsers."""
        connection: duckdb.DuckDBPyConnection = self._backend.con
        return connection

    @contextlib.contextmanager
    def in_order(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield the connection; until the end of the block, reading keeps the order of rows."""
        self.connection.execute("SET preserve_insertion_order = true")
        yield self.connection
        self.connection.execute("SET preserve_insertion_order = false")

    def adopt(self, name: str, table: ir.Table) -> ir.Table:
        """Return the table: it is here already."""
        del name
        return table

    def table(self, name: str) -> ir.Table:
        """Return a table that a parser made, or what `save` named."""
        return self._backend.table(name)

    def save(self, name: str, table: ir.Table) -> str:
        """Name an expression over tables on disk, so that a later process finds it."""
        self._backend.create_view(name, table, overwrite=True)
        self.connection.execute("CHECKPOINT")
        return name

    def keep(self, table: ir.Table) -> ir.Table:
        """Evaluate an expression once and return its stored result."""
        return self._backend.create_table(f"{_KEPT}{next(self._numbers)}", table)

    def drop(self, table: ir.Table) -> None:
        """Free what `keep` stored."""
        # Not ibis' drop_table: with sqlglot 30.30 it writes "DROP TABLE" without the name.
        self._backend.raw_sql(f"drop table {table.get_name()}")

    def records(self, table: ir.Table) -> list[dict[str, Any]]:  # Any: the columns' own types
        """Return the rows of a small table."""
        relation = self.connection.sql(self.sql(table))
        return list(relation.to_arrow_table().cast(_schema(table)).to_pylist())

    def batches(self, table: ir.Table) -> Iterator[pa.RecordBatch]:
        """Stream the rows of a large table, in its order."""
        # A cursor of its own: another query on the connection would cut the stream short.
        relation = self.connection.cursor().sql(self.sql(table))
        for batch in relation.to_arrow_reader(BATCH_ROWS):
            yield batch.cast(_schema(table))

    def write_parquet(self, table: ir.Table, folder: Path) -> None:
        """Write a table as a folder of Parquet files, for another engine."""
        self.connection.execute(
            f"COPY ({self.sql(table)}) TO {quoted_text(str(folder))} "
            f"(FORMAT parquet, FILE_SIZE_BYTES '{_FILE_SIZE}')"
        )

    def sql(self, table: ir.Table) -> str:
        """Return an expression as DuckDB's SQL."""
        # ibis 12 itself cannot fetch from DuckDB 2.0, whose connections lost `fetch_record_batch`.
        return str(self._backend.compile(table))

    def close(self) -> None:
        """Release the files in the scratch folder."""
        self._backend.disconnect()


@contextlib.contextmanager
def open_duckdb(scratch: Path, *, memory_limit: str | None = None) -> Iterator[DuckDBEngine]:
    """Yield an engine that works in `scratch`; the caller removes the folder.

    Args:
        scratch: a folder, made if missing; it may hold tables that an engine left there.
        memory_limit: memory limit of the engine, such as "2GiB"; beyond it spills to disk.
            None is 3 GiB, or half of a smaller machine's.

    Raises:
        ConfigError: the limit is not a size.
        OutputError: `scratch` cannot be written, or disk or memory is too small.
    """
    if memory_limit is not None and not _SIZE.fullmatch(memory_limit):
        raise ConfigError(
            f"the memory limit '{memory_limit}' is not a size", hint="write it as 500MiB or 4GiB"
        )
    require_writable(scratch)
    try:
        with contextlib.closing(_begun(scratch, memory_limit)) as engine:
            yield engine
    except duckdb.Error as error:
        if not did_not_fit(error):
            raise
        in_memory = isinstance(error, duckdb.OutOfMemoryException) and "disk" not in str(error)
        raise OutputError(
            f"the work did not fit: {str(error).splitlines()[0]}",
            hint="allow more with --memory-limit; nothing was replaced"
            if in_memory
            else "free some space on the disk of --out; nothing was replaced",
        ) from error


def did_not_fit(error: duckdb.Error) -> bool:
    """Return whether disk or memory was too small, and not the log or a setting wrong.

    DuckDB reports a table that could not be written as a fatal error, and a commit that could not
    be written as an error of its transaction. Earlier tables are unchanged.
    """
    if isinstance(error, duckdb.IOException | duckdb.OutOfMemoryException):
        return True
    return "Could not write" in str(error) or "No space left" in str(error)


def _begun(scratch: Path, memory_limit: str | None) -> DuckDBEngine:
    try:
        return DuckDBEngine(scratch, memory_limit=memory_limit)
    except duckdb.IOException as error:
        raise OutputError(
            f"cannot work in '{scratch}': {str(error).splitlines()[0]}",
            hint="try it again, which starts over, or give another --out",
        ) from error


def _default_limit() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{min(_USUAL_LIMIT_MIB, memory >> 21)}MiB"


def _schema(table: ir.Table) -> pa.Schema:
    """Return the types that the expression promises: DuckDB's sums, for one, come wider."""
    return table.schema().to_pyarrow()
