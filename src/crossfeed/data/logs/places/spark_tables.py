"""A table of Spark's catalogue as a log: spark://HOST:PORT?table=SCHEMA.TABLE.

Spark writes the columns that are needed as Parquet into the scratch folder, all workers at once,
and the embedded engine parses these rows like any others.

spark://HOST:PORT?table=T   the master at that place
spark://yarn?table=T        a master without a place: yarn, local
spark://?table=T            the session that is active, or else a Spark on this machine
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import pyarrow as pa
import pyarrow.dataset as pads

from crossfeed.data.engines.engine import BATCH_ROWS
from crossfeed.data.engines.spark_session import spark_errors, spark_session
from crossfeed.data.logs.places.urls import url_parts
from crossfeed.errors import LogError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["SparkTable", "spark_table"]


@dataclass(frozen=True)
class SparkTable:
    """A table that Spark opens when it is read."""

    shown: str
    """The URL without user, password and options: a master has none, but a mistake may."""
    table: str
    master: str | None

    def columns(self) -> pa.Schema:
        """Return the columns that can be read.

        Raises:
            LogError: Spark cannot be reached, or has no such table.
            MissingExtraError: pyspark is not installed.
        """
        with self._open() as table:
            return _schema(table)

    @contextlib.contextmanager
    def read(self, columns: Sequence[str], scratch: Path) -> Iterator[pa.RecordBatchReader]:
        """Yield the rows of some columns, as one job of Spark finds them.

        Args:
            columns: their names.
            scratch: a folder that the workers see under the same path.

        Raises:
            LogError: Spark cannot be reached, or failed.
        """
        folder = scratch.resolve() / "spark_table"
        try:
            with self._open() as table:
                chosen = table.select([f"`{name.replace('`', '``')}`" for name in columns])
                schema = _schema(chosen)
                chosen.write.mode("overwrite").parquet(str(folder))
            found = pads.dataset(folder, format="parquet").scanner(batch_size=BATCH_ROWS)
            # Spark writes its times in an old form without a zone; they are UTC.
            batches = (batch.cast(schema) for batch in found.to_batches())
            yield pa.RecordBatchReader.from_batches(schema, batches)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def _open(self) -> Iterator[DataFrame]:
        try:
            with spark_session(self.master) as session:
                yield session.table(self.table)
        except spark_errors() as error:
            raise LogError(
                f"'{self.shown}' cannot be read: {str(error).strip().splitlines()[0]}",
                hint="is the master up, and the name of schema and table right? Catalogues are "
                "settings of Spark itself (spark-defaults.conf), or of the active session",
            ) from error


def spark_table(url: str) -> SparkTable:
    """Take a URL apart.

    Raises:
        LogError: it names no table.
    """
    parts = url_parts(url, has_server=True)
    [table] = parse_qs(parts.query).get("table", [""])[-1:]
    address = parts.netloc.rpartition("@")[2]
    shown = f"spark://{address}"  # whatever else stands in the URL
    if not table:
        raise LogError(f"'{shown}' names no table", hint="spark://host:7077?table=schema.clicks")
    master = f"spark://{address}" if ":" in address else address
    return SparkTable(f"{shown}?table={table}", table, master or None)


def _schema(table: DataFrame) -> pa.Schema:
    from pyspark.sql.pandas.types import to_arrow_type

    fields = []
    for field in table.schema.fields:
        with contextlib.suppress(Exception):  # columns of types unknown to Arrow are skipped
            fields.append(pa.field(field.name, to_arrow_type(field.dataType)))
    return pa.schema(fields)
