"""One input of a log as DuckDB reads it: its columns, and the SELECT that yields its rows.

Rows are numbered from 1 within their file, without a CSV's header. A value of several lines is in
one row. After blank lines in a CSV, the numbers may be too low by the count of these lines.
"""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pyarrow as pa

from crossfeed.data.engines.sql import quoted_name, quoted_text
from crossfeed.data.logs.places.databases import DatabaseTable
from crossfeed.data.logs.places.files import LogFile, has_mark
from crossfeed.data.logs.places.spark_tables import SparkTable
from crossfeed.data.logs.values.ids import domain_text
from crossfeed.data.sources import Source

__all__ = [
    "IN_MEMORY",
    "NO_TYPE",
    "UNTYPED",
    "CsvLayout",
    "Input",
    "Rejects",
    "json_objects",
    "json_pointer",
]

UNTYPED = "VARCHAR"
"""The type of every column of a CSV; which of them are numbers is found out after reading."""
NO_TYPE = '"NULL"'
"""The type of a column without any value."""
IN_MEMORY = "log_in_memory"


@dataclass(frozen=True)
class Rejects:
    """The tables of rows that DuckDB cannot parse."""

    table: str
    scans: str


@dataclass(frozen=True)
class CsvLayout:
    """How a CSV is laid out, as its beginning shows."""

    columns: tuple[str, ...]
    """A name for each column, of ours: c0, c1, ..."""
    delimiter: str = ","
    blank_lines: int = 0
    """Blank lines before the header."""
    has_header: bool = True

    @property
    def lines_before(self) -> int:
        """Return the number of lines before the first row."""
        return self.blank_lines + self.has_header


@dataclass(frozen=True)
class Input:
    """One file of a log, a source's folder, a table in memory or of a database."""

    name: str
    size: int
    """Bytes of a file or of a source's folder, rows of a table in memory, 0 of a database's."""
    columns: Mapping[str, str]
    """The SQL type of each column that can be used, by name."""
    own_names: Mapping[str, str] = field(default_factory=dict)
    """Column -> DuckDB's name of it, if it differs."""
    unusable: Mapping[str, str] = field(default_factory=dict)
    """Why each other column cannot be used."""
    values: Mapping[str, str | None] = field(default_factory=dict)
    """Columns that have one value in all rows, such as those that folders name."""
    has_rows: bool = True
    """False where the input certainly has none."""
    file: LogFile | None = None
    layout: CsvLayout | None = None
    """Of a CSV."""
    table: pa.Table | None = None
    source: tuple[Source, Path] | None = None
    """A public data set and its folder."""
    database: DatabaseTable | SparkTable | None = None

    @property
    def shown(self) -> str:
        """Return what messages call it."""
        return f"'{self.name}' as {self.source[0].name}" if self.source else f"'{self.name}'"

    @property
    def remedy(self) -> str:
        """Return what to do if it cannot be read."""
        if self.source is not None:
            return f"fetch it again from {self.source[0].home_page}"
        if self.database is not None:
            return "try it again; an id is text or an integer, a time is a number, a date or text"
        if self.layout is not None:
            return "write the file again, with one kind of line ending and closed quotes"
        return "write the file again"

    @property
    def files(self) -> list[Path]:
        """Return the files that it is read from; none of a table."""
        if self.source is not None:
            _, folder = self.source  # or a single file
            return sorted(path for path in (folder, *_visible(folder)) if path.is_file())
        return [self.file.path] if self.file is not None else []

    @property
    def is_text(self) -> bool:
        """Return whether the types of its columns are found out after reading."""
        return self.file is not None and self.file.format != "Parquet"

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
            connection.register(IN_MEMORY, self.table)
        if self.database is None:
            yield
            return
        own = [column for column in columns if column not in self.values]
        with self.database.read(own, scratch) as rows:
            connection.register(IN_MEMORY, rows)
            yield
            connection.unregister(IN_MEMORY)

    def select(
        self,
        connection: duckdb.DuckDBPyConnection,
        columns: Sequence[str],
        *,
        ids: Collection[str],
        domain: str,
        rejects: Rejects,
    ) -> str:
        """Return the SELECT of row number, malformed and some columns, in the order of the rows.

        A row that could not be parsed is malformed; `rejects` holds the malformed rows of a CSV.
        JSON fields come as text, except `ids`, which stay JSON: "7" differs from the number 7.

        Args:
            connection: of the engine.
            columns: those that are needed.
            ids: the columns with ids.
            domain: the column with the domain.
            rejects: the tables for rows that do not parse.
        """
        if self.file is not None and self.file.format == "JSONL":
            fields = ", ".join(
                self._json_field(name, as_json=name in ids, is_domain=name == domain)
                for name in columns
            )
            malformed = "json IS NULL OR json_type(json) <> 'OBJECT'"
            objects = json_objects(self.file)
            return f"SELECT row_number() OVER (), {malformed}, {fields} FROM {objects}"
        chosen = ", ".join(
            f"{self.value(name, is_domain=name == domain)} AS {quoted_name(name)}"
            for name in columns
        )
        if self.source is not None:
            public, folder = self.source
            return _numbered(chosen, f"({public.query(connection, folder)})")
        if self.file is None:
            return _numbered(chosen, IN_MEMORY)
        path = quoted_text(glob.escape(str(self.file.path)))
        if self.file.format == "CSV":
            return _numbered(chosen, self._csv_source(self.file, path, rejects))
        source = f"read_parquet({path}, file_row_number = true, hive_partitioning = false)"
        return f"SELECT file_row_number + 1, false, {chosen} FROM {source}"

    def value(self, column: str, *, is_domain: bool) -> str:
        """Return the SQL of a column's value."""
        if column in self.values:
            return _literal(self.values[column])
        name = quoted_name(self.own_names.get(column, column))
        type_ = self.columns[column]
        if type_ == NO_TYPE:
            return "NULL"
        if type_ == "BLOB":  # text, as Parquet of old writers has it
            name = f"TRY(decode({name}))"
        return domain_text(name, type_) if is_domain else name

    def _json_field(self, column: str, *, as_json: bool, is_domain: bool) -> str:
        pointer = json_pointer(column)
        text = f"json_extract_string(json, {pointer})"
        field = f"json_extract(json, {pointer})"
        if column in self.values:
            value = _literal(self.values[column])
            return f"{f'to_json({value})' if as_json else value} AS {quoted_name(column)}"
        if as_json:
            return f"nullif(CAST({field} AS VARCHAR), 'null') AS {quoted_name(column)}"
        if is_domain:
            whole = f"json_type({field}) = 'DOUBLE' AND regexp_full_match({text}, '-?\\d+\\.0+')"
            text = f"CASE WHEN {whole} THEN split_part({text}, '.', 1) ELSE {text} END"
        return f"{text} AS {quoted_name(column)}"

    def _csv_source(self, file: LogFile, path: str, rejects: Rejects) -> str:
        assert self.layout is not None
        types = ", ".join(f"{column}: '{UNTYPED}'" for column in self.layout.columns)
        options = {
            "columns": f"{{{types}}}",
            "auto_detect": "false",
            "header": str(self.layout.has_header).lower(),
            "skip": str(self.layout.blank_lines),
            "delim": quoted_text(self.layout.delimiter),
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


def _visible(folder: Path) -> Iterator[Path]:
    """Yield the paths below a folder except hidden ones, such as unfinished datasets."""
    for path in folder.rglob("*"):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def json_objects(file: LogFile) -> str:
    """Return the table function of a JSONL file's rows, each in the column json."""
    path = quoted_text(glob.escape(str(file.path)))
    if has_mark(file):  # which only the reader of CSV skips
        options = "auto_detect = false, header = false, delim = '\x07', quote = '', escape = ''"
        packed = f"compression = {quoted_text(file.compression or 'none')}, ignore_errors = true"
        lines = f"read_csv({path}, {options}, columns = {{line: 'VARCHAR'}}, {packed})"
        return f"(SELECT CASE WHEN json_valid(line) THEN line::JSON END AS json FROM {lines})"
    compression = quoted_text(file.compression or "uncompressed")
    return f"read_ndjson_objects({path}, ignore_errors = true, compression = {compression})"


def json_pointer(column: str) -> str:
    """Return the SQL literal that points to a field of an object."""
    return quoted_text("/" + column.replace("~", "~0").replace("/", "~1"))


def _numbered(columns: str, source: str) -> str:
    return f"SELECT row_number() OVER (), false, {columns} FROM {source}"


def _literal(value: str | None) -> str:
    return f"CAST({'NULL' if value is None else quoted_text(value)} AS VARCHAR)"
