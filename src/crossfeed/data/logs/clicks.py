"""Which rows of a log are clicks: `data.positive`, an SQL expression over the log's columns."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import duckdb

from crossfeed.data.engines.sql import quoted_name
from crossfeed.errors import ConfigError

__all__ = ["check_positive", "columns_in", "typed_columns"]


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
        ConfigError: it is not SQL, names a column that there is not, or does not yield true or
            false.
    """
    columns = ", ".join(
        f"CAST(NULL AS {type_}) AS {quoted_name(column)}"
        if type_
        else f"NULL AS {quoted_name(column)}"
        for column, type_ in types.items()
    )
    source = f"(SELECT {columns or 'NULL'})"
    try:
        # WHERE admits neither aggregates nor window functions.
        connection.execute(f"SELECT 1 FROM {source} WHERE ({expression}\n) LIMIT 0")
        query = f"DESCRIBE SELECT ({expression}\n) FROM {source}"
        type_ = str(connection.execute(query).fetchall()[0][1])
    except duckdb.Error as error:
        raise ConfigError(
            f"data.positive = {expression!r} is not valid: {str(error).splitlines()[0]}",
            hint=f"it is an SQL expression over the log's columns: {', '.join(types)}",
        ) from None
    if type_ != "BOOLEAN" and None not in types.values():
        raise ConfigError(
            f"data.positive = {expression!r} yields {type_}, not true or false",
            hint="compare it with something, such as: rating >= 4",
        )


def typed_columns(
    connection: duckdb.DuckDBPyConnection, table: str, columns: Collection[str]
) -> dict[str, str]:
    """Return the type that the values of text columns suggest: BOOLEAN, BIGINT, DOUBLE or text."""
    types = {}
    for column in columns:
        name = quoted_name(column)
        text = f"CAST({name} AS VARCHAR)"
        query = (
            f"SELECT bool_and({text} IN ('true', 'false')), "
            f"bool_and(regexp_full_match({text}, '[+-]?[0-9]{{1,18}}')), "
            f"bool_and(try_cast({text} AS DOUBLE) IS NOT NULL) FROM {table}"
        )
        fits = connection.execute(query).fetchall()[0]
        kinds = zip(("BOOLEAN", "BIGINT", "DOUBLE"), fits, strict=True)
        types[column] = next((kind for kind, fit in kinds if fit), "VARCHAR")
    return types
