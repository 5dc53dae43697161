"""Which rows of a log are clicks: `data.positive`, an SQL expression over the log's columns."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping

import duckdb

from crossfeed.data.engines.sql import is_word, quoted_name, quoted_text
from crossfeed.errors import ConfigError

__all__ = ["check_positive", "columns_in", "typed_columns"]

_BOOLEANS = ("true", "false", "yes", "no", "t", "f", "y", "n")
_MOST_TRIES = 64
_SAMPLES = {"BOOLEAN": "true", "BIGINT": "1", "DOUBLE": "1", "VARCHAR": "NULL"}


def columns_in(expression: str, columns: Collection[str]) -> list[str]:
    """Return the columns whose names appear in an expression."""
    return [
        column
        for column in columns
        if re.search(rf"(?<!\w){re.escape(column)}(?!\w)", expression, re.IGNORECASE)
    ]


def check_positive(
    connection: duckdb.DuckDBPyConnection, expression: str, types: Mapping[str, str | None]
) -> None:
    """Check an expression without reading a row.

    Args:
        connection: any connection.
        expression: the value of `data.positive`.
        types: the SQL type of each of the log's columns; None while it is not known.

    Raises:
        ConfigError: it is not SQL, names a missing column, or does not yield true or false.
    """
    used = columns_in(expression, types)
    columns = ", ".join(
        f"CAST(NULL AS {types[column]}) AS {quoted_name(column)}"
        if types[column]
        else f"NULL AS {quoted_name(column)}"
        for column in used
    )
    source = f"(SELECT {columns or 'NULL'})"
    try:
        # WHERE admits neither aggregates nor window functions.
        connection.execute(f"SELECT 1 FROM {source} WHERE ({expression}\n) LIMIT 0")
        query = f"DESCRIBE SELECT ({expression}\n) FROM {source}"
        type_ = str(connection.execute(query).fetchall()[0][1])
    except duckdb.Error as error:
        quotes = "; text has single quotes, double ones name a column" if '"' in expression else ""
        raise ConfigError(
            f"data.positive = {expression!r} is not valid: {str(error).splitlines()[0]}",
            hint=f"it is an SQL expression over the log's columns: {', '.join(types)}{quotes}",
        ) from None
    if type_ != "BOOLEAN" and all(types[column] for column in used):
        raise ConfigError(
            f"data.positive = {expression!r} yields {type_}, not true or false",
            hint="compare it with something, such as: rating >= 4",
        )


def typed_columns(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    columns: Collection[str],
    *,
    expression: str,
    known: Mapping[str, str],
    missing_values: Collection[str],
) -> dict[str, tuple[str, str]]:
    """Return the type that the values of text columns suggest, and the SQL of their values.

    The types are those with which `expression` can be evaluated: a column of yes and no may be
    compared as text, and one of 1 and 0 be true or false. Missing values suggest nothing.

    Args:
        connection: of the engine.
        table: of the text columns.
        columns: their names.
        expression: the value of `data.positive`.
        known: the types of its other columns.
        missing_values: words for a missing value in numbers, times and truth values.

    Raises:
        ConfigError: the expression cannot be evaluated with any of the types.
    """
    suggested = [_suggested(connection, table, column, missing_values) for column in columns]
    first_error: ConfigError | None = None
    for types in itertools.islice(itertools.product(*suggested), _MOST_TRIES):
        chosen = dict(zip(columns, types, strict=True))
        try:
            check_positive(connection, expression, {**known, **chosen})
        except ConfigError as error:
            first_error = first_error or error
            continue
        if _compares(connection, expression, known, chosen):
            return {
                name: (type_, _value(name, type_, missing_values)) for name, type_ in chosen.items()
            }
    if first_error is None:
        raise ConfigError(f"data.positive = {expression!r} fits none of the columns' values")
    raise first_error


def _compares(
    connection: duckdb.DuckDBPyConnection,
    expression: str,
    known: Mapping[str, str],
    chosen: Mapping[str, str],
) -> bool:
    """Return whether each column is compared with values of its type: 'm' is not a number."""
    columns = [f"CAST(NULL AS {type_}) AS {quoted_name(name)}" for name, type_ in known.items()]
    columns += [
        f"CAST({_SAMPLES[type_]} AS {type_}) AS {quoted_name(name)}"
        for name, type_ in chosen.items()
    ]
    try:
        query = f"SELECT ({expression}\n) FROM (SELECT {', '.join(columns) or 'NULL'})"
        connection.execute(query).fetchall()
    except duckdb.ConversionException:
        return False
    return True


def _suggested(
    connection: duckdb.DuckDBPyConnection, table: str, column: str, missing_values: Collection[str]
) -> list[str]:
    """Return the types that all values of a text column fit, the likeliest first."""
    text = f"CAST({quoted_name(column)} AS VARCHAR)"
    conditions = {
        "BOOLEAN": f"lower({text}) IN ({', '.join(map(quoted_text, _BOOLEANS))})",
        "BIGINT": f"regexp_full_match({text}, '[+-]?[0-9]{{1,18}}')",
        "DOUBLE": f"coalesce(isfinite(try_cast({text} AS DOUBLE)), false)",
        "one or zero": f"{text} IN ('0', '1')",
    }
    present = f"{text} <> '' AND NOT {is_word(text, missing_values)}"
    fits = ", ".join(f"coalesce(bool_and({fit}), true)" for fit in conditions.values())
    query = f"SELECT {fits} FROM {table} WHERE {present}"
    fitting = dict(zip(conditions, connection.execute(query).fetchall()[0], strict=True))
    types = [type_ for type_ in ("BIGINT", "DOUBLE", "BOOLEAN") if fitting[type_]]
    if fitting["one or zero"] and "BOOLEAN" not in types:
        types.append("BOOLEAN")
    return [*types, "VARCHAR"]


def _value(column: str, type_: str, missing_values: Collection[str]) -> str:
    name = quoted_name(column)
    if type_ == "VARCHAR":
        return f"CAST({name} AS VARCHAR)"
    missing = f"{name} = '' OR {is_word(name, missing_values)}"
    return f"CAST(CASE WHEN NOT ({missing}) THEN {name} END AS {type_})"
