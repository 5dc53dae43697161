"""Spark behind ibis, for logs that one machine no longer serves; the extra `spark`.

Everything that is kept is Parquet in the scratch folder, which the driver and all workers must see
under the same path: a shared file system where the master is a cluster.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from crossfeed.data.engine import BATCH_ROWS, Engine
from crossfeed.data.engine_duckdb import DuckDBEngine
from crossfeed.errors import ConfigError, MissingExtraError, OutputError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["SparkEngine", "open_spark"]

_LOCAL_SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    # Spark's own 200 are for a cluster.
    "spark.sql.shuffle.partitions": str(4 * (os.cpu_count() or 1)),
}
"""For a Spark within this process, which nobody watches and nobody calls."""


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
        """Take the views out of the session, which may go on."""
        for view in self._tables:
            self._session.catalog.dropTempView(view)


@contextlib.contextmanager
def open_spark(
    master: str | None, scratch: Path, embedded: DuckDBEngine, *, memory: str | None = None
) -> Iterator[SparkEngine]:
    """Yield an engine in the session that is active, or in one of its own that ends with it.

    Args:
        master: where Spark runs, such as "spark://host:7077"; None is the active session's, or
            else this machine.
        scratch: where tables are kept; the workers must see it under the same path.
        embedded: the engine that parsed the log.
        memory: of a Spark on this machine, such as "4GiB".

    Raises:
        MissingExtraError: pyspark is not installed.
        ConfigError: there is no Java.
        OutputError: Spark failed.
    """
    try:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise MissingExtraError(package="pyspark", extra="spark") from error
    active = SparkSession.getActiveSession() if master is None else None
    if active is None:
        _require_java()
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        session = active or _start(master or "local[*]", memory)
        engine = SparkEngine(session, scratch.resolve(), embedded)
        try:
            yield engine
        finally:
            engine.close()
            if active is None:
                session.stop()
    except (PySparkException, Py4JError) as error:
        raise OutputError(
            f"Spark failed: {str(error).strip().splitlines()[0]}",
            hint="the lines above are its own; is the master up, has it disk and memory enough, "
            "and do its workers see --out under the same path?",
        ) from error


def _start(master: str, memory: str | None) -> SparkSession:
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master(master).appName("crossfeed")
    if master.startswith("local"):
        settings = {**_LOCAL_SETTINGS, "spark.driver.memory": _jvm_size(memory or "4GiB")}
        for name, value in settings.items():
            builder = builder.config(name, value)
    session: SparkSession = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def _jvm_size(size: str) -> str:
    """Return "4GiB" as the JVM writes it: 4g."""
    return size.replace(" ", "").lower().removesuffix("b").removesuffix("i")


def _require_java() -> None:
    home = os.environ.get("JAVA_HOME")
    if shutil.which("java") is None and not (home and (Path(home) / "bin" / "java").exists()):
        raise ConfigError(
            "the engine 'spark' needs Java 17, and no 'java' was found",
            hint="on Debian and Ubuntu: apt install openjdk-17-jre-headless; or set JAVA_HOME",
        )
