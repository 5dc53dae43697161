"""Tables as files: Parquet, CSV or JSONL, by the suffix of the name."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from crossfeed.errors import OutputError
from crossfeed.files import atomic_path
from crossfeed.outputs import FileKind, require_file

__all__ = ["SUFFIXES", "TableWriter", "read_columns", "require_table", "table_writer"]

SUFFIXES = (".parquet", ".csv", ".jsonl")


class TableWriter(Protocol):
    """Takes a table piece by piece."""

    def write_table(self, table: pa.Table) -> None:
        """Write the next rows."""


def require_table(
    path: Path,
    columns: Sequence[str],
    *,
    name: str,
    inputs: Iterable[Path | str] = (),
    overwrite: bool,
) -> None:
    """Refuse a table that may not be written: like replaces like, by the names of its columns.

    Args:
        path: the file that is to be written.
        columns: the names of its columns.
        name: of such a table in messages.
        inputs: files and folders that the same command reads.
        overwrite: whether a table with these columns may be replaced.

    Raises:
        OutputError: the suffix names no format, or `path` may not be replaced.
    """
    if path.suffix not in SUFFIXES:
        raise OutputError(
            f"'{path}' must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}",
            hint=f"the suffix chooses the format: {path.stem or 'table'}.parquet",
        )
    kind = FileKind(name, lambda file: read_columns(file) == list(columns))
    require_file(path, kind, inputs=inputs, overwrite=overwrite)


def read_columns(path: Path) -> list[str]:
    """Return the names of a file's columns, in its format by suffix.

    Raises:
        ValueError: it is not of that format.
        OSError: it cannot be read.
    """
    if path.suffix == ".parquet":
        return list(pq.read_schema(path).names)
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            return next(csv.reader(file), [])
        return list(json.loads(file.readline()))


@contextlib.contextmanager
def table_writer(path: Path, schema: pa.Schema) -> Iterator[TableWriter]:
    """Lend a writer of a table; the file appears when it is complete.

    Args:
        path: the file; its suffix is one of `SUFFIXES`.
        schema: its columns.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            with pq.ParquetWriter(temporary, schema) as parquet:
                yield parquet
        elif path.suffix == ".csv":
            with pyarrow.csv.CSVWriter(temporary, schema) as text:
                yield text
        else:
            with temporary.open("w", encoding="utf-8") as lines:
                yield _Lines(lines)


class _Lines:
    """Writes a table as JSONL."""

    def __init__(self, file: object) -> None:
        self._file = file

    def write_table(self, table: pa.Table) -> None:
        """Write the next rows, one JSON object a line."""
        for row in table.to_pylist():
            print(json.dumps(row, ensure_ascii=False), file=self._file)  # type: ignore[call-overload]
