"""Spark behind ibis, for logs that are too large for one machine; the extra `spark`.

Kept tables are Parquet in the scratch folder. The driver and all workers must see it under the same
path: with a cluster, on a shared file system.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from crossfeed.data.engines.duckdb_engine import DuckDBEngine
from crossfeed.data.engines.engine import BATCH_ROWS, Engine
from crossfeed.data.engines.spark_session import spark_errors, spark_session
from crossfeed.errors import OutputError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["SparkEngine", "open_spark"]


class SparkEngine(Engine):
    """Evaluates ibis expressions in a Spark session."""

    def __init__(self, session: SparkSession, scratch: Path, embedded: DuckDBEngine) -> None:
        self._session, self._scratch, self._embedded = session, scratch, embedded
        self._backend = ibis.pyspark.connect(session)
        taken = [int(path.suffix[1:]) for path in scratch.glob("kept.*")]
        self._numbers = itertools.count(max(taken, default=-1) + 1)
        self._tables: dict[str, Path] = {}
        self._prefix = f"crossfeed_{uuid.uuid4().hex}"

    def adopt(self, name: str, table: ir.Table) -> ir.Table:
        """Return a table of the embedded engine, handed over as Parquet."""
        folder = self._scratch / name
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            self._embedded.write_parquet(table, partial)
            partial.rename(folder)
        return self.table(name)

    def table(self, name: str) -> ir.Table:
        """Return what `save` or `adopt` wrote."""
        folder = self._scratch / name
        # Views are of the session, which others may use at the same time for other work.
        view = f"{self._prefix}_{name.replace('.', '_')}"
        self._session.read.parquet(str(folder)).createOrReplaceTempView(view)
        self._tables[view] = folder
        return self._backend.table(view)

    def save(self, name: str, table: ir.Table) -> str:
        """Write an expression, so that a later process finds it."""
        self._write(table, self._scratch / name)
        return name

    def keep(self, table: ir.Table) -> ir.Table:
        """Evaluate an expression once and return its stored result."""
        return self.table(self.save(f"kept.{next(self._numbers)}", table))

    def drop(self, table: ir.Table) -> None:
        """Free what `keep` stored."""
        view = table.get_name()
        self._session.catalog.dropTempView(view)
        shutil.rmtree(self._tables.pop(view))

    def records(self, table: ir.Table) -> list[dict[str, Any]]:  # Any: the columns' own types
        """Return the rows of a small table."""
        return [row for batch in self.batches(table) for row in batch.to_pylist()]

    def batches(self, table: ir.Table) -> Iterator[pa.RecordBatch]:
        """Stream the rows of a large table, in its order."""
        folder = self._scratch / "ordered"
        self._write(table, folder)
        schema = table.schema().to_pyarrow()
        # Spark sorts by ranges: each file is sorted, and their numbers are in the same order.
        for path in sorted(folder.glob("part-*.parquet")):
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(BATCH_ROWS):
                    yield batch.cast(schema)
        shutil.rmtree(folder)

    def _write(self, table: ir.Table, folder: Path) -> None:
        rows = self._session.sql(self._backend.compile(table))
        rows.write.mode("overwrite").parquet(str(folder))

    def close(self) -> None:
        """Remove the views from the session, which may continue."""
        for view in self._tables:
            self._session.catalog.dropTempView(view)


@contextlib.contextmanager
def open_spark(
    master: str | None, scratch: Path, embedded: DuckDBEngine, *, memory: str | None = None
) -> Iterator[SparkEngine]:
    """Yield an engine in the session that is active, or in one of its own that ends with it.

    Args:
        master: see `spark_session`.
        scratch: where tables are kept; the workers must see it under the same path.
        embedded: the engine that parsed the log.
        memory: see `spark_session`.

    Raises:
        MissingExtraError: pyspark is not installed.
        ConfigError: there is no Java.
        OutputError: Spark failed.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        with spark_session(master, memory=memory) as session:
            engine = SparkEngine(session, scratch.resolve(), embedded)
            try:
                yield engine
            finally:
                engine.close()
    except spark_errors() as error:
        raise OutputError(
            f"Spark failed: {str(error).strip().splitlines()[0]}",
            hint="the lines above are its own; is the master up, has it disk and memory enough, "
            "and do its workers see --out under the same path?",
        ) from error
