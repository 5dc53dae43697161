"""How the ids of a log become strings or 64-bit integers, so that they come back unchanged.

A typed column keeps its type. JSON keeps its own: the string "7" is text, the number 7 an integer.
The ids of a CSV are integers only if every one of them is written as an integer is ("7", not "007",
"+7" or "7.0"); otherwise all of them are text. Floating-point ids, into which pandas turns integers
with gaps, are integers if all of them are whole; `cleaning` knows them in a CSV.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import duckdb

from crossfeed.data.engines.sql import quoted_name
from crossfeed.data.logs.places.files import Format
from crossfeed.errors import LogError

__all__ = ["IdRule", "common_type", "domain_text", "id_rule"]

_INTEGERS = {
    *("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"),
    *("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"),
}
_FLOATS = {"FLOAT", "DOUBLE"}
_TEXTS = {"VARCHAR", "UUID", "BLOB"}
_DECIMAL = re.compile(r"DECIMAL\(\d+,(\d+)\)")
_LARGEST_WHOLE = 2**53


@dataclass(frozen=True)
class IdRule:
    """The kind of a column's ids and the SQL that makes them."""

    kind: Literal["integer", "text"]
    expression: str
    """NULL where the id is missing or cannot be one."""


def common_type(types: Collection[str]) -> str | None:
    """Return the SQL type that holds the ids or numbers of all files, None if there is none."""
    families = {_family(type_) for type_ in types}
    if families == {"integer"}:
        return "BIGINT"
    if families == {"text"}:
        return "VARCHAR"
    return "DOUBLE" if families in ({"float"}, {"integer", "float"}) else None


def domain_text(name: str, type_: str) -> str:
    """Return the SQL that makes a domain of a value: 1.0 is the domain 1, as the integer 1 is."""
    text = f"CAST({name} AS VARCHAR)"
    if _family(type_) != "float":
        return text if type_ != "VARCHAR" else name
    whole = f"CAST(TRY_CAST({name} AS DECIMAL(38, 0)) AS VARCHAR)"
    missing = f"WHEN isnan({name}) THEN NULL " if type_ in _FLOATS else ""
    is_whole = f"{name} = trunc({name}) AND abs({name}) < 1e18"
    return f"CASE {missing}WHEN {is_whole} THEN {whole} ELSE {text} END"


def id_rule(
    connection: duckdb.DuckDBPyConnection,
    column: str,
    *,
    table: str,
    staged_type: str,
    format_: Format | None,
) -> IdRule:
    """Decide what the ids of a staged column are.

    Raises:
        LogError: some are integers and some are text, or they have fractions.
    """
    name = quoted_name(column)
    count = _Counter(connection, table)
    if staged_type == "BIGINT":
        return IdRule("integer", name)
    if staged_type == "DOUBLE":
        return _float_rule(count, column)
    if format_ == "JSONL":
        return _json_rule(count, column)
    if format_ == "CSV" and count(f"{name} <> '' AND NOT {_canonical(name)}") == 0:
        return IdRule("integer", f"try_cast({name} AS BIGINT)")
    return IdRule("text", f"nullif({name}, '')")


@dataclass(frozen=True)
class _Counter:
    """Counts the rows of a table for which a condition holds."""

    connection: duckdb.DuckDBPyConnection
    table: str

    def __call__(self, condition: str) -> int:
        query = f"SELECT count(*) FROM {self.table} WHERE {condition}"
        [count] = self.connection.execute(query).fetchall()[0]
        return int(count)


def _float_rule(count: _Counter, column: str) -> IdRule:
    name = quoted_name(column)
    whole = f"{name} = trunc({name}) AND abs({name}) <= {_LARGEST_WHOLE}"
    if count(f"NOT isnan({name}) AND NOT ({whole})"):
        raise LogError(
            f"the column '{column}' holds numbers with fractions; ids are strings or integers",
            hint="write the ids as strings",
        )
    return IdRule("integer", f"CASE WHEN {whole} THEN CAST({name} AS BIGINT) END")


def _json_rule(count: _Counter, column: str) -> IdRule:
    name = quoted_name(column)
    number = f"regexp_replace({name}, '^(-?\\d+)\\.0+$', '\\1')"  # 7.0 is the number 7
    texts, integers = count(f"{name} LIKE '\"%'"), count(_canonical(number))
    if texts and integers:
        raise LogError(
            f"the column '{column}' mixes ids of two types: strings in {texts} rows, integers in "
            f"{integers}",
            hint="write all of them as strings or all as integers",
        )
    if texts:
        unquoted = f"json_extract_string({name}, '$')"
        return IdRule("text", f"CASE WHEN {name} LIKE '\"%' THEN nullif({unquoted}, '') END")
    return IdRule("integer", f"CASE WHEN {_canonical(number)} THEN CAST({number} AS BIGINT) END")


def _canonical(name: str) -> str:
    """Return the condition that a text is written just as a 64-bit integer is."""
    return f"coalesce(CAST(try_cast({name} AS BIGINT) AS VARCHAR) = {name}, false)"


def _family(type_: str) -> str:
    if type_ in _INTEGERS:
        return "integer"
    if decimal := _DECIMAL.fullmatch(type_):
        return "float" if int(decimal[1]) else "integer"
    if type_ in _FLOATS:
        return "float"
    return "text" if type_ in _TEXTS or type_.startswith("ENUM") else type_
