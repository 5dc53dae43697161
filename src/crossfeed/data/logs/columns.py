"""Look at the columns of a log's inputs, before any row is read.

Only columns that are needed count: those without a name, of a name that two have, or of a type that
no engine knows are remembered as unusable, each with the reason.
"""

from __future__ import annotations

import csv
import glob
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from crossfeed.data.engines.sql import quoted_name, quoted_text
from crossfeed.data.logs.inputs import (
    IN_MEMORY,
    UNTYPED,
    CsvLayout,
    Input,
    json_objects,
    json_pointer,
)
from crossfeed.data.logs.places.databases import database_table
from crossfeed.data.logs.places.files import LogFile, read_head
from crossfeed.data.logs.places.spark_tables import spark_table
from crossfeed.data.sources import Source
from crossfeed.errors import ConfigError, LogError

__all__ = [
    "ArrowTable",
    "arrow_input",
    "database_input",
    "file_input",
    "source_input",
    "without_values",
]

_DELIMITERS = ",\t;|"
_LINE_END = re.compile(r"\r\n|\n|\r")


class ArrowTable(Protocol):
    """A table in memory: a pandas DataFrame, a pyarrow Table, anything that speaks Arrow."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the table as an Arrow stream."""


def file_input(
    connection: duckdb.DuckDBPyConnection,
    file: LogFile,
    *,
    optional: Sequence[str],
    header: Sequence[str] | None = None,
) -> Input:
    """Look at the columns of a file.

    Args:
        connection: any connection.
        file: the file.
        optional: columns that are looked for in every object of a JSONL file, not only in the
            first ones, because a missed column would go unnoticed.
        header: the names of the columns of a CSV without a header line.

    Raises:
        LogError: its objects cannot be read, or its header names no columns.
        ConfigError: `header` names too many columns, or the file is not a CSV.
    """
    if header is not None and file.format != "CSV":
        raise ConfigError(f"data.header is for CSV, and '{file.name}' is {file.format}")
    if file.format == "Parquet":
        return _parquet_input(connection, file)
    if file.format == "JSONL":
        return _jsonl_input(connection, file, optional)
    return _csv_input(file, header)


def _parquet_input(connection: duckdb.DuckDBPyConnection, file: LogFile) -> Input:
    with pq.ParquetFile(file.path) as opened:
        names, rows = opened.schema_arrow.names, opened.metadata.num_rows
    path = quoted_text(glob.escape(str(file.path)))
    source = f"read_parquet({path}, hive_partitioning = false)"
    found = _described(connection, source)
    input_ = Input(file.name, _size(file), {}, file=file, has_rows=rows > 0)
    return _with_columns(input_, names, found)


def _jsonl_input(
    connection: duckdb.DuckDBPyConnection, file: LogFile, optional: Sequence[str]
) -> Input:
    head = read_head(file)
    keys = _json_keys(head)
    if not keys and head.strip():
        raise LogError(
            f"no line at the beginning of '{file.name}' is a JSON object with keys",
            hint="write one object per line, as jq -c . does with objects of several lines",
        )
    keys += _keys_of_any(connection, file, [name for name in optional if name not in keys])
    types = dict.fromkeys(filter(None, keys), UNTYPED)
    return Input(file.name, _size(file), types, file=file)


def _csv_input(file: LogFile, header: Sequence[str] | None) -> Input:
    head = read_head(file)
    lines = _LINE_END.split(head)
    blank = next((n for n, line in enumerate(lines) if line.strip()), 0)
    first = lines[blank]
    delimiter = max(_DELIMITERS, key=first.count)
    try:
        names = next(csv.reader([first], delimiter=delimiter))
    except csv.Error as error:
        raise LogError(f"the first line of '{file.name}' names no columns: {error}") from None
    if header is not None:
        _require_as_many(file, names, header)
        names = [*header, *[""] * (len(names) - len(header))]
    own = tuple(f"c{number}" for number in range(len(names)))
    layout = CsvLayout(own, delimiter, blank, has_header=header is None)
    rows = header is not None or any(line.strip() for line in lines[blank + 1 :])
    input_ = Input(file.name, _size(file), {}, file=file, layout=layout, has_rows=rows)
    return _with_columns(input_, names, [(name, UNTYPED) for name in own])


def _require_as_many(file: LogFile, row: Sequence[str], header: Sequence[str]) -> None:
    if len(header) > len(row):
        raise ConfigError(
            f"data.header names {len(header)} columns, and the first line of '{file.name}' has "
            f"{len(row)}: {', '.join(row)}",
            hint="name the columns of the file in order; the last ones may be left out",
        )


def arrow_input(connection: duckdb.DuckDBPyConnection, table: ArrowTable) -> Input:
    """Look at the columns of a table in memory.

    Raises:
        LogError: it has no columns that can be read.
    """
    columns, unusable = _arrow_columns(table)
    usable: dict[str, pa.ChunkedArray] = {}
    types: list[tuple[str, str]] = []
    for name, column in columns.items():
        own = _widened(column)
        try:
            connection.register(IN_MEMORY, pa.table({"column": own.slice(0, 0)}))
            [(_, type_)] = _described(connection, IN_MEMORY)
        except (duckdb.Error, pa.ArrowException) as error:
            unusable[name] = f"is {column.type}: {str(error).splitlines()[0]}"
            continue
        usable[f"c{len(usable)}"] = own
        types.append((name, type_))
    rows = max((len(column) for column in usable.values()), default=0)
    input_ = Input("table in memory", rows, {}, table=pa.table(usable), unusable=unusable)
    names = [name for name, _ in types]
    own_types = [(f"c{number}", type_) for number, (_, type_) in enumerate(types)]
    return _with_columns(input_, names, own_types)


def database_input(connection: duckdb.DuckDBPyConnection, url: str) -> Input:
    """Look at the columns of a database's table.

    Raises:
        LogError: the database cannot be reached, or has no such table.
    """
    database = (spark_table if url.lower().startswith("spark://") else database_table)(url)
    columns = database.columns()
    connection.register(IN_MEMORY, columns.empty_table())
    types = _described(connection, IN_MEMORY)
    input_ = Input(database.shown, 0, {}, database=database)
    found = _with_columns(input_, columns.names, types)
    return replace(found, own_names={})  # only needed columns are fetched, under their own names


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
    return replace(found, size=size, columns=dict(columns))


def without_values(connection: duckdb.DuckDBPyConnection, input_: Input, column: str) -> bool:
    """Return whether a column of a Parquet file has no value in any row.

    Its type says nothing, because the writer had to guess it.
    """
    if input_.file is None or input_.file.format != "Parquet" or column in input_.values:
        return False
    path = quoted_text(glob.escape(str(input_.file.path)))
    name = quoted_name(input_.own_names.get(column, column))
    is_float = input_.columns[column] in ("FLOAT", "DOUBLE")
    value = f"CASE WHEN NOT isnan({name}) THEN 1 END" if is_float else name
    source = f"read_parquet({path}, hive_partitioning = false)"
    [[values]] = connection.execute(f"SELECT count({value}) FROM {source}").fetchall()
    return int(values) == 0


def _with_columns(input_: Input, names: Sequence[str], found: Sequence[tuple[str, str]]) -> Input:
    """Return an input with its columns: their names, and DuckDB's names and types."""
    count = Counter(names)
    unusable = {**input_.unusable}
    unusable |= {name: "occurs several times" for name in names if name and count[name] > 1}
    usable = [
        (name, own, type_)
        for name, (own, type_) in zip(names, found, strict=True)
        if name and name not in unusable
    ]
    return replace(
        input_,
        columns={name: type_ for name, _, type_ in usable},
        own_names={name: own for name, own, _ in usable if own != name},
        unusable=unusable,
    )


def _arrow_columns(
    table: ArrowTable,
) -> tuple[dict[str, pa.ChunkedArray], dict[str, str]]:
    """Return the columns of a table in Arrow's types, and why some are not."""
    try:
        arrow = pa.table(table)
    except (pa.ArrowException, ValueError, TypeError) as error:
        return _pandas_columns(table, error)
    return _single(arrow.column_names, arrow.columns)


def _pandas_columns(
    table: Any,  # Any: pandas is not needed otherwise
    error: Exception,
) -> tuple[dict[str, pa.ChunkedArray], dict[str, str]]:
    """Return the columns of a DataFrame one by one: only needed ones must have one type."""
    if not hasattr(table, "iloc"):
        raise LogError(
            f"the table in memory cannot be read: {str(error).splitlines()[0]}",
            hint="give a pandas DataFrame, a pyarrow Table or another table that speaks Arrow",
        ) from None
    names = [str(name) for name in table.columns]
    columns, unusable = [], {}
    for number, name in enumerate(names):
        try:
            columns.append(pa.chunked_array([pa.Array.from_pandas(table.iloc[:, number])]))
        except (pa.ArrowException, ValueError, TypeError) as mixed:
            columns.append(None)
            unusable[name] = f"has values of several types: {str(mixed).splitlines()[0]}"
    found, twice = _single(names, columns)
    return {name: one for name, one in found.items() if one is not None}, {**unusable, **twice}


def _single(
    names: Sequence[str], columns: Iterable[pa.ChunkedArray]
) -> tuple[dict[str, pa.ChunkedArray], dict[str, str]]:
    """Return the columns with unique names, and the repeated names."""
    count = Counter(names)
    single = {name: one for name, one in zip(names, columns, strict=True) if count[name] == 1}
    return single, {name: "occurs several times" for name in count if count[name] > 1}


def _widened(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column in a type that the engine knows."""
    if pa.types.is_float16(column.type):
        return column.cast(pa.float32())
    return column.cast(pa.float64()) if pa.types.is_decimal256(column.type) else column


def _described(connection: duckdb.DuckDBPyConnection, source: str) -> list[tuple[str, str]]:
    rows = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    return [(str(row[0]), str(row[1])) for row in rows]


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
    """Return the keys that occur in any object of a file."""
    if not keys:
        return []
    found = ", ".join(f"bool_or(json_exists(json, {json_pointer(key)}))" for key in keys)
    try:
        [any_has] = connection.execute(f"SELECT {found} FROM {json_objects(file)}").fetchall()
    except duckdb.Error as error:
        raise LogError(
            f"'{file.name}' cannot be read: {str(error).splitlines()[0]}",
            hint="write the file again, one object per line",
        ) from error
    return [key for key, has in zip(keys, any_has, strict=True) if has]


def _size(file: LogFile) -> int:
    return file.path.stat().st_size
