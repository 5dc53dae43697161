"""A table of a database as a log: postgres://USER@HOST/DATABASE?table=SCHEMA.TABLE.

It is read by one statement, in batches. What is written to the table in the meantime is not seen:
a statement of Postgres sees what was there when it began.

A URL may hold a password. It is never shown: messages, manifest and quarantine name `shown`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qs, unquote_plus, urlencode, urlsplit

import ibis
import pyarrow as pa
from ibis.common.exceptions import TableNotFound

from crossfeed.errors import LogError, MissingExtraError

if TYPE_CHECKING:
    import ibis.expr.types as ir

__all__ = ["DatabaseTable", "database_table", "is_url"]

_BATCH_ROWS = 1 << 16
_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
_IN_MEMORY = ("duckdb", "sqlite", "polars", "datafusion")
"""Engines that hand over a whole table at a time, if at all."""


@dataclass(frozen=True)
class DatabaseTable:
    """A table that is connected to when it is read."""

    shown: str
    """The URL without password and options."""
    table: str
    schema: str | None
    _url: str = field(repr=False)
    _secrets: tuple[str, ...] = field(repr=False)

    def columns(self) -> pa.Schema:
        """Return the columns that can be read.

        Raises:
            LogError: the database cannot be reached, or has no such table.
            MissingExtraError: its driver is not installed.
        """
        with self._open() as table:
            return pa.schema(list(_fields(table)))

    @contextlib.contextmanager
    def read(self, columns: Sequence[str]) -> Iterator[pa.RecordBatchReader]:
        """Yield the rows of some columns, in the order in which the database gives them.

        Raises:
            LogError: the database cannot be reached, or broke off.
        """
        with self._open() as table:
            yield _plain(table, columns).to_pyarrow_batches(chunk_size=_BATCH_ROWS)

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
        """Turn what a driver raises, each its own kind, into one error without secrets."""
        try:
            yield
        except but:
            raise
        except ModuleNotFoundError as error:
            scheme = self.shown.partition("://")[0]
            extra = "postgres" if scheme.startswith("postgres") else ""
            if extra:
                raise MissingExtraError(package=str(error.name), extra=extra) from None
            raise LogError(
                f"'{self.shown}' needs the package '{error.name}', which is not installed",
                hint=f"pip install 'ibis-framework[{scheme}]'",
            ) from None
        except Exception as error:
            # "from None": the cause may hold the URL.
            raise LogError(
                f"'{self.shown}' cannot be read: {self._reason(error)}",
                hint="is the server up, and the name of database, schema and table right? A "
                "password may stand in the URL or where the driver looks for it, as PGPASSWORD",
            ) from None

    def _reason(self, error: Exception) -> str:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        for secret in self._secrets:
            reason = reason.replace(secret, "***")
        return reason


def is_url(log: object) -> bool:
    """Return whether a log is a table of a database."""
    return isinstance(log, str) and _URL.match(log) is not None


def database_table(url: str) -> DatabaseTable:
    """Take a URL apart.

    Raises:
        LogError: it names no table, or a database that cannot be read in batches.
    """
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    [table] = options.pop("table", [""])[-1:]
    shown = _without_secrets(parts, table)
    if parts.scheme in _IN_MEMORY:
        raise LogError(
            f"'{shown}' cannot be read in batches",
            hint="export the table as Parquet, and give that",
        )
    if not table:
        raise LogError(
            f"'{shown}' names no table",
            hint="postgres://user@host/database?table=clicks, or table=schema.clicks",
        )
    schema, _, name = table.rpartition(".")
    rest = parts._replace(query=urlencode(options, doseq=True)).geturl()
    values = [value for values in options.values() for value in values]
    secrets = [parts.password or "", unquote_plus(parts.password or ""), *values]
    return DatabaseTable(shown, name, schema or None, rest, tuple(filter(None, secrets)))


def _without_secrets(parts: SplitResult, table: str) -> str:
    user, _, address = parts.netloc.rpartition("@")
    user = user.partition(":")[0]
    query = f"table={table}" if table else ""
    netloc = f"{user}@{address}" if user else address
    return parts._replace(netloc=netloc, query=query, fragment="").geturl()


def _fields(table: ir.Table) -> Iterator[pa.Field]:
    for name, type_ in table.schema().items():
        with contextlib.suppress(Exception):  # a type that Arrow has not is no column of a log
            yield pa.field(name, pa.string() if type_.is_uuid() else type_.to_pyarrow())


def _plain(table: ir.Table, columns: Sequence[str]) -> ir.Table:
    chosen = {
        name: table[name].cast("string") if table[name].type().is_uuid() else table[name]
        for name in columns
    }
    return table.select(**chosen)
