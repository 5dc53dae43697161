"""How each format of a log is read by DuckDB: its columns, and the SELECT that yields its rows.

Rows are numbered from 1 within their file, a CSV's header apart. A value of several lines is in one
row; where a CSV has blank lines the numbers behind them may be off by so many.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import duckdb
import pyarrow as pa

from crossfeed.data.engines.sql import names, quoted_name, quoted_text
from crossfeed.data.logs.databases import DatabaseTable, database_table
from crossfeed.data.logs.files import LogFile, read_head
from crossfeed.data.logs.spark_tables import SparkTable, spark_table
from crossfeed.data.sources import Source
from crossfeed.errors import LogError

__all__ = [
    "UNTYPED",
    "ArrowTable",
    "Input",
    "Rejects",
    "arrow_input",
    "database_input",
    "file_input",
    "source_input",
]

UNTYPED = "VARCHAR"
"""The type of every column of a CSV; which of them are numbers is found out after reading."""

_IN_MEMORY = "log_in_memory"
_DELIMITERS = ",\t;|"


class ArrowTable(Protocol):
    """A table in memory: a pandas DataFrame, a pyarrow Table, anything that speaks Arrow."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the table as an Arrow stream."""


@dataclass(frozen=True)
class Rejects:
    """Where DuckDB writes the rows of a file that do not parse at all."""

    table: str
    scans: str


@dataclass(frozen=True)
class Input:
    """One file of a log, a source's folder, a table in memory or of a database."""

    name: str
    size: int
    """Bytes of a file or of a source's folder, rows of a table in memory, 0 of a database's."""
    columns: dict[str, str]
    """The SQL type of each column, by name."""
    problem: str | None = None
    """Why the columns cannot be used, if so."""
    file: LogFile | None = None
    table: pa.Table | None = None
    source: tuple[Source, Path] | None = None
    """A public data set and its folder."""
    database: DatabaseTable | SparkTable | None = None
    delimiter: str = ","

    @property
    def shown(self) -> str:
        """Return what messages call it."""
        return f"'{self.name}' as {self.source[0].name}" if self.source else f"'{self.name}'"

    @property
    def remedy(self) -> str:
        """Return what to do where it cannot be read."""
        if self.source is not None:
            return f"fetch it again from {self.source[0].home_page}"
        if self.database is not None:
            return "try it again; an id is text or an integer, a time is a number, a date or text"
        return "write the file anew; a CSV with one kind of line ending and closed quotes"

    @property
    def files(self) -> list[Path]:
        """Return the files that it is read from; none of a table."""
        if self.source is not None:
            _, folder = self.source  # or a single file
            return sorted(path for path in (folder, *folder.rglob("*")) if path.is_file())
        return [self.file.path] if self.file is not None else []

    @contextlib.contextmanager
    def opened(
        self, connection: duckdb.DuckDBPyConnection, columns: Sequence[str], *, scratch: Path
    ) -> Iterator[None]:
        """Make the rows of a table in memory or of a database known to the engine.

        Args:
            connection: of the engine.
            columns: those that are needed.
            scratch: the engine's folder, for a database that hands over files.
        """
        if self.table is not None:
            connection.register(_IN_MEMORY, self.table)
        if self.database is None:
            yield
            return
        with self.database.read(columns, scratch) as rows:
            connection.register(_IN_MEMORY, rows)
            yield
            connection.unregister(_IN_MEMORY)

    def select(
        self,
        connection: duckdb.DuckDBPyConnection,
        columns: Sequence[str],
        *,
        ids: Collection[str],
        rejects: Rejects,
    ) -> str:
        """Return the SELECT of row number, malformed and some columns, in the order of the rows.

        A row that is there but could not be parsed is malformed; those of a CSV are not there but
        in `rejects`. JSON fields come as text, except that `ids` stay JSON, which tells the string
        "7" from the number 7.
        """
        if self.file is None and self.source is None:
            return _numbered(names(columns), _IN_MEMORY)
        if self.source is not None:
            public, folder = self.source
            return _numbered(names(columns), f"({public.query(connection, folder)})")
        assert self.file is not None
        path = quoted_text(glob.escape(str(self.file.path)))
        if self.file.format == "Parquet":
            source = f"read_parquet({path}, file_row_number = true, hive_partitioning = false)"
            return f"SELECT file_row_number + 1, false, {names(columns)} FROM {source}"
        if self.file.format == "CSV":
            return _numbered(names(columns), self._csv_source(self.file, path, rejects))
        fields = ", ".join(_json_field(column, as_json=column in ids) for column in columns)
        malformed = "json IS NULL OR json_type(json) <> 'OBJECT'"
        return f"SELECT row_number() OVER (), {malformed}, {fields} FROM {_objects(self.file)}"

    def _csv_source(self, file: LogFile, path: str, rejects: Rejects) -> str:
        types = ", ".join(f"{quoted_text(column)}: '{UNTYPED}'" for column in self.columns)
        options = {
            "columns": f"{{{types}}}",
            "auto_detect": "false",
            "header": "true",
            "delim": quoted_text(self.delimiter),
            "quote": "'\"'",
            "escape": "'\"'",
            "compression": quoted_text(file.compression or "none"),
            "hive_partitioning": "false",
            "ignore_errors": "true",
            "store_rejects": "true",
            "rejects_table": quoted_text(rejects.table),
            "rejects_scan": quoted_text(rejects.scans),
        }
        return f"read_csv({path}, {', '.join(f'{name} = {v}' for name, v in options.items())})"


def file_input(
    connection: duckdb.DuckDBPyConnection, file: LogFile, *, optional: Sequence[str]
) -> Input:
    """Look at the columns of a file.

    Args:
        connection: any connection.
        file: the file.
        optional: columns that are looked for in every object of a JSONL file, not in the first
            ones alone: nobody would notice that they were missed.

    Raises:
        LogError: its objects cannot be read.
    """
    size = file.path.stat().st_size
    if file.format == "Parquet":
        path = quoted_text(glob.escape(str(file.path)))
        source = f"read_parquet({path}, hive_partitioning = false)"
        return Input(file.name, size, _described(connection, source), file=file)
    head = read_head(file)
    if file.format == "JSONL":
        keys = _json_keys(head)
        keys += _keys_of_any(connection, file, [name for name in optional if name not in keys])
        return Input(file.name, size, dict.fromkeys(keys, UNTYPED), file=file)
    header = head.lstrip("\r\n").partition("\n")[0].partition("\r")[0]
    delimiter = max(_DELIMITERS, key=header.count)
    try:
        columns = next(csv.reader([header], delimiter=delimiter))
    except csv.Error as error:
        unread = f"the first line of '{file.name}' names no columns: {error}"
        return Input(file.name, size, {}, problem=unread, file=file)
    twice = sorted({column for column in columns if columns.count(column) > 1})
    problem = f"'{file.name}' has two columns of the name {', '.join(twice)}" if twice else None
    types = dict.fromkeys(columns, UNTYPED)
    return Input(file.name, size, types, problem=problem, file=file, delimiter=delimiter)


def arrow_input(connection: duckdb.DuckDBPyConnection, table: ArrowTable) -> Input:
    """Look at the columns of a table in memory.

    Raises:
        LogError: a column is of an unknown type or of several, or two have the same name.
    """
    try:
        arrow = pa.table(table)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise LogError(
            f"the table in memory cannot be read: {error}",
            hint="give every column one name and one type: ids are all strings or all integers",
        ) from error
    if len(set(arrow.column_names)) < arrow.num_columns:
        raise LogError("the table in memory has two columns of the same name")
    try:
        connection.register(_IN_MEMORY, arrow)
        types = _described(connection, _IN_MEMORY)
    except duckdb.Error as error:
        found = ", ".join(sorted({str(type_) for type_ in arrow.schema.types}))
        raise LogError(
            f"the table in memory cannot be read: {str(error).splitlines()[0]}; its columns are "
            f"{found}",
            hint="leave out columns that are neither text nor usual numbers or times",
        ) from error
    return Input("table in memory", arrow.num_rows, types, table=arrow)


def database_input(connection: duckdb.DuckDBPyConnection, url: str) -> Input:
    """Look at the columns of a database's table.

    Raises:
        LogError: the database cannot be reached, or has no such table.
    """
    database = (spark_table if url.startswith("spark://") else database_table)(url)
    connection.register(_IN_MEMORY, database.columns().empty_table())
    return Input(database.shown, 0, _described(connection, _IN_MEMORY), database=database)


def source_input(connection: duckdb.DuckDBPyConnection, source: Source, folder: Path) -> Input:
    """Look at the columns that a source makes of its files.

    Raises:
        LogError: the folder lacks a file of the source, or holds another one of that name.
    """
    found = Input(str(folder), 0, {}, source=(source, folder))
    size = sum(path.stat().st_size for path in found.files)
    try:
        columns = _described(connection, f"({source.query(connection, folder)})")
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise LogError(f"{found.shown} cannot be read: {reason}", hint=found.remedy) from error
    return replace(found, size=size, columns=columns)


def _numbered(columns: str, source: str) -> str:
    return f"SELECT row_number() OVER (), false, {columns} FROM {source}"


def _described(connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, str]:
    rows = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    return {str(row[0]): str(row[1]) for row in rows}


def _json_keys(head: str) -> list[str]:
    """Return the keys of the first objects, in the order of appearance."""
    keys: dict[str, None] = {}
    for line in head.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue  # The row will be quarantined, or the head ends within it.
        if isinstance(value, dict):
            keys.update(dict.fromkeys(value))
    return list(keys)


def _keys_of_any(
    connection: duckdb.DuckDBPyConnection, file: LogFile, keys: Sequence[str]
) -> list[str]:
    """Return those of some keys that any object of a file has."""
    if not keys:
        return []
    found = ", ".join(f"bool_or(json_exists(json, {_pointer(key)}))" for key in keys)
    try:
        [any_has] = connection.execute(f"SELECT {found} FROM {_objects(file)}").fetchall()
    except duckdb.Error as error:
        raise LogError(
            f"'{file.name}' cannot be read: {str(error).splitlines()[0]}",
            hint="write the file anew, one object per line",
        ) from error
    return [key for key, has in zip(keys, any_has, strict=True) if has]


def _objects(file: LogFile) -> str:
    """Return the table function of a JSONL file's rows, each in the column json."""
    path = quoted_text(glob.escape(str(file.path)))
    compression = quoted_text(file.compression or "uncompressed")
    return f"read_ndjson_objects({path}, ignore_errors = true, compression = {compression})"


def _pointer(column: str) -> str:
    return quoted_text("/" + column.replace("~", "~0").replace("/", "~1"))


def _json_field(column: str, *, as_json: bool) -> str:
    pointer = _pointer(column)
    if not as_json:
        return f"json_extract_string(json, {pointer}) AS {quoted_name(column)}"
    field = f"json_extract(json, {pointer})"
    return f"nullif(CAST({field} AS VARCHAR), 'null') AS {quoted_name(column)}"
