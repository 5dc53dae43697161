"""A table of a database as a log: postgres://USER@HOST/DATABASE?table=SCHEMA.TABLE.

One statement reads it, in batches. Later writes to the table are not seen: a statement of Postgres
or SQLite sees the table as of its start, and a file of DuckDB is locked.

A URL may hold a password. It is never shown: messages, manifest and quarantine name `shown`.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qs, urlencode

import ibis
import pyarrow as pa
from ibis.common.exceptions import TableNotFound

from crossfeed.data.engines.sql import quoted_name
from crossfeed.data.logs.places.urls import Secrets, secrets_of, url_parts
from crossfeed.errors import LogError, MissingExtraError

if TYPE_CHECKING:
    import ibis.expr.datatypes as dt
    import ibis.expr.types as ir

__all__ = ["DatabaseTable", "database_table"]

_BATCH_ROWS = 1 << 16
_FILES = ("duckdb", "sqlite")
"""Databases that are a file: duckdb:///absolute/path?table=clicks, sqlite://relative/path?...

Leading slashes are one, as for the history store, so that four are as good as three.
"""
_WITHOUT_TABLES = ("polars", "datafusion")
"""In-memory engines: they store no table that a URL could name."""


@dataclass(frozen=True)
class DatabaseTable:
    """A table that is connected to when it is read."""

    shown: str
    """The URL without password and options."""
    table: str
    schema: str | None
    _url: str = field(repr=False)
    _secrets: Secrets = field(repr=False)

    def columns(self) -> pa.Schema:
        """Return the columns that can be read.

        Raises:
            LogError: the database cannot be reached, or has no such table.
            MissingExtraError: its driver is not installed.
        """
        with self._open() as table:
            return pa.schema(list(_fields(table).values()))

    @contextlib.contextmanager
    def read(self, columns: Sequence[str], scratch: Path) -> Iterator[pa.RecordBatchReader]:
        """Yield the rows of some columns, in the order in which the database gives them.

        Raises:
            LogError: the database cannot be reached, or the connection was lost.
        """
        del scratch  # no database needs it
        with self._open() as table:
            yield _batches(table, _fields(table), columns)

    @contextlib.contextmanager
    def _open(self) -> Iterator[ir.Table]:
        with self._telling():
            backend = ibis.connect(self._url)
        try:
            try:
                with self._telling(but=TableNotFound):
                    table = backend.table(self.table, database=self.schema)
            except TableNotFound:
                raise LogError(
                    f"'{self.shown}': the database has no table '{self.table}'",
                    hint="name one of another schema as table=schema.clicks",
                ) from None
            yield table
        finally:
            backend.disconnect()

    @contextlib.contextmanager
    def _telling(self, *, but: type[Exception] = LogError) -> Iterator[None]:
        """Turn the exceptions of any driver into one error without secrets."""
        try:
            yield
        except but:
            raise
        except Exception as error:
            # "from None": the cause may hold the URL.
            if package := _missing_package(error):
                raise self._without_driver(package) from None
            raise LogError(
                f"'{self.shown}' cannot be read: {self._secrets.reason(error)}",
                hint="is the server up, and the name of database, schema and table right? A "
                "password may stand in the URL or where the driver looks for it, as PGPASSWORD",
            ) from None

    def _without_driver(self, package: str) -> Exception:
        scheme = self.shown.partition("://")[0].lower()
        if scheme.startswith("postgres"):
            return MissingExtraError(package=package, extra="postgres")
        return LogError(
            f"'{self.shown}' needs the package '{package}', which is not installed",
            hint=f"pip install 'ibis-framework[{scheme}]'",
        )


def database_table(url: str) -> DatabaseTable:
    """Take a URL apart.

    Raises:
        LogError: it names no table, or a database that cannot be read in batches.
    """
    scheme = url.partition("://")[0].lower()
    parts = url_parts(url, has_server=scheme not in _FILES)
    options = parse_qs(parts.query)
    [table] = options.pop("table", [""])[-1:]
    shown = _without_secrets(parts, table)
    _require_known(scheme, shown)
    if scheme in _WITHOUT_TABLES:
        raise LogError(
            f"'{shown}' names no stored table: {scheme} works in memory",
            hint="give the table itself in Python, or write it as Parquet",
        )
    if scheme in _FILES:
        if parts.path.startswith("//"):
            parts = parts._replace(path=f"/{parts.path.lstrip('/')}")
        file = Path(parts.netloc + parts.path)
        if not file.is_file():  # to connect would make one
            raise LogError(f"'{shown}': there is no file '{file}'")
        options |= {"read_only": ["True"]} if scheme == "duckdb" else {}
    if not table:
        raise LogError(
            f"'{shown}' names no table",
            hint="postgres://user@host/database?table=clicks, or table=schema.clicks",
        )
    schema, _, name = table.rpartition(".")
    rest = parts._replace(query=urlencode(options, doseq=True)).geturl()
    secrets = secrets_of(rest, parts, shown=shown)
    return DatabaseTable(shown, name, schema or None, rest, secrets)


def _require_known(scheme: str, shown: str) -> None:
    known = {"postgresql", *(one.name for one in entry_points(group="ibis.backends"))}
    if scheme not in known:
        raise LogError(
            f"'{shown}': {scheme}:// is neither a database nor a place of files",
            hint="a log is a path, file://, https://, s3:// or gs://, or a table of a database: "
            "postgres://user@host/database?table=clicks",
        )


def _missing_package(error: BaseException | None) -> str | None:
    """Return the missing package that caused an error, if there is one."""
    lacking = None
    while error is not None:
        if isinstance(error, ImportError):
            lacking = error.name or lacking or str(error).splitlines()[0]
        error = error.__cause__ or error.__context__
    return lacking


def _without_secrets(parts: SplitResult, table: str) -> str:
    user, _, address = parts.netloc.rpartition("@")
    user = user.partition(":")[0]
    query = f"table={table}" if table else ""
    netloc = f"{user}@{address}" if user else address
    # Not geturl(), which leaves out "//" without an address.
    return f"{parts.scheme}://{netloc}{parts.path}{'?' if query else ''}{query}"


def _fields(table: ir.Table) -> dict[str, pa.Field]:
    """Return the columns in the types in which they are read."""
    fields = {}
    for name, type_ in table.schema().items():
        with contextlib.suppress(Exception):  # columns of types unknown to Arrow are skipped
            fields[name] = pa.field(name, _read_as(type_, table.get_backend().name))
    return fields


def _read_as(type_: dt.DataType, engine: str) -> pa.DataType:
    """Return the type in which a column is read; text for types of the client's own."""
    is_number = type_.is_integer() or type_.is_floating()
    if type_.is_uuid() or (engine == "sqlite" and not is_number):  # it has no other types
        return pa.string()
    return type_.to_pyarrow()


def _batches(
    table: ir.Table, fields: Mapping[str, pa.Field], columns: Sequence[str]
) -> pa.RecordBatchReader:
    """Return the rows of some columns of a table, some at a time."""
    as_text = [name for name in columns if fields[name].type == pa.string()]
    backend: Any = table.get_backend()  # Any: each database's own
    if backend.name == "sqlite":  # ibis fetches all rows of it at once
        [(_, _, file)] = backend.con.execute("PRAGMA database_list")
        schema = pa.schema([fields[name] for name in columns])
        return _from_sqlite(file, table.get_name(), schema)
    rows = table.select(*columns).cast(dict.fromkeys(as_text, "string"))
    if backend.name == "duckdb":  # ibis 12 calls a method that DuckDB 2.0 removed
        return backend.con.sql(backend.compile(rows)).to_arrow_reader(_BATCH_ROWS)
    return rows.to_pyarrow_batches(chunk_size=_BATCH_ROWS)


def _from_sqlite(file: str, table: str, schema: pa.Schema) -> pa.RecordBatchReader:
    wanted = ", ".join(
        f"CAST({quoted_name(field.name)} AS TEXT)"
        if field.type == pa.string()
        else quoted_name(field.name)
        for field in schema
    )

    def batches() -> Iterator[pa.RecordBatch]:
        # A connection is of one thread, and the engine reads in one of its own.
        with contextlib.closing(sqlite3.connect(f"{Path(file).as_uri()}?mode=ro", uri=True)) as own:
            cursor = own.execute(f"SELECT {wanted} FROM {quoted_name(table)}")
            while rows := cursor.fetchmany(_BATCH_ROWS):
                columns = zip(zip(*rows, strict=True), schema, strict=True)
                yield pa.record_batch([pa.array(c, field.type) for c, field in columns], schema)

    return pa.RecordBatchReader.from_batches(schema, batches())
