"""How the times of a log become milliseconds since 1970 (UTC).

Numbers are seconds, milliseconds, microseconds or nanoseconds: whichever puts the most of them into
the possible range. Text is such a number, ISO 8601 or as `data.time_format` says. Times without an
offset are UTC. Fractions of a millisecond are cut off.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import duckdb

from crossfeed.config import DataConfig, parse_time
from crossfeed.data.engines.sql import quoted_name, quoted_text
from crossfeed.errors import ConfigError, LogError

__all__ = [
    "TimeRange",
    "TimeRule",
    "common_time_type",
    "is_time_type",
    "iso_time",
    "time_range",
    "time_rule",
]

_DAY = 86_400_000
_FACTORS = {"s": "1000", "ms": "1", "us": "0.001", "ns": "0.000001"}
_ISO = r"^\d{4}-\d{2}-\d{2}"
_INTEGERS = {
    *("TINYINT", "SMALLINT", "INTEGER", "BIGINT"),
    *("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"),
}
_NUMBERS = {*_INTEGERS, "HUGEINT", "FLOAT", "DOUBLE"}


@dataclass(frozen=True)
class TimeRange:
    """The possible times, in milliseconds since 1970, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{iso_time(self.first)[:10]} to {iso_time(self.last)[:10]}"


@dataclass(frozen=True)
class TimeRule:
    """The unit of a column's times and the SQL that makes milliseconds of them."""

    unit: str
    expression: str
    """NULL where the time is missing or cannot be parsed."""
    all_possible: bool = False
    """Whether every existing time is known to be possible."""


def time_range(config: DataConfig) -> TimeRange:
    """Return the possible times: 1990 to a day from now, unless `data.time_range` says otherwise.

    Raises:
        ConfigError: `data.time_range` is not two ISO 8601 times in order.
    """
    if config.time_range is None:
        return TimeRange(parse_time("1990-01-01"), int(time.time() * 1000) + _DAY)
    try:
        first, last = map(parse_time, config.time_range)
    except ValueError as error:
        raise ConfigError(
            f"data.time_range = {list(config.time_range)}: {error}",
            hint='write two times in ISO 8601: ["1970-01-01", "2030-01-01"]',
        ) from None
    if first >= last:
        raise ConfigError(f"data.time_range = {list(config.time_range)} ends before it begins")
    return TimeRange(first, last)


def iso_time(milliseconds: int) -> str:
    """Return milliseconds since 1970 as ISO 8601."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    return moment.isoformat(timespec="milliseconds")


def is_time_type(type_: str) -> bool:
    """Return whether a column of this SQL type can hold times."""
    return type_ in _NUMBERS | {"VARCHAR", "DATE"} or type_.startswith(("TIMESTAMP", "DECIMAL"))


def common_time_type(types: Collection[str]) -> str | None:
    """Return the SQL type that holds the times of all files, None if there is none.

    Numbers of several types are held as text, which keeps nanoseconds exact, as a double does not.
    """
    if not all(map(is_time_type, types)):
        return None
    if len(types) == 1:
        return next(iter(types))
    return "TIMESTAMP WITH TIME ZONE" if all(map(_is_moment, types)) else "VARCHAR"


def time_rule(
    connection: duckdb.DuckDBPyConnection,
    column: str,
    *,
    table: str,
    staged_type: str,
    unit: str,
    format_: str | None,
    possible: TimeRange,
) -> TimeRule:
    """Decide how the times of a staged column are written.

    Raises:
        LogError: in no unit does any of them lie in the possible range.
        ConfigError: numbers are not in the unit that is asked for.
    """
    name = quoted_name(column)
    if format_ is not None:
        return _format_rule(connection, column, table, staged_type, format_)
    if _is_moment(staged_type):
        return TimeRule(staged_type.lower(), _of_moments(name, staged_type))
    rules = {
        unit_: TimeRule(unit_, expression)
        for unit_, expression in _expressions(name, staged_type).items()
        if unit in ("auto", unit_)
    }
    if not rules:
        raise ConfigError(
            f"data.time_unit = {unit!r} is for text, and the times in '{column}' are {staged_type}",
            hint="numbers are s, ms, us or ns; auto detects the unit",
        )
    for rule in rules.values():
        if staged_type in _INTEGERS and _all_possible(connection, name, table, rule, possible):
            return dataclasses.replace(rule, all_possible=True)
    counts = _count_possible(connection, table, rules, possible)
    best = max(rules, key=counts.__getitem__)
    if counts[best] == 0 and _any_value(connection, name, table):
        raise _no_unit(connection, column, table, list(rules), possible)
    return rules[best]


def _is_moment(type_: str) -> bool:
    return type_ == "DATE" or type_.startswith("TIMESTAMP")


def _of_moments(name: str, type_: str) -> str:
    """Return the SQL that makes milliseconds of dates and timestamps, as of numbers: floored."""
    if type_ in ("DATE", "TIMESTAMP_S", "TIMESTAMP_MS"):
        return f"epoch_ms({name})"
    if type_.endswith("_NS"):
        return _of_integers(f"epoch_ns({name})")["ns"]
    return _of_integers(f"epoch_us({name})")["us"]


def _format_rule(
    connection: duckdb.DuckDBPyConnection, column: str, table: str, staged_type: str, format_: str
) -> TimeRule:
    """Return the rule of times in a format of their own; digits alone may be a number."""
    if _is_moment(staged_type):
        raise ConfigError(
            f"data.time_format = {format_!r} is for text, and the times in '{column}' are "
            f"{staged_type}",
            hint="leave it out",
        )
    name = quoted_name(column)
    is_fraction = staged_type in ("FLOAT", "DOUBLE") or staged_type.startswith("DECIMAL")
    digits = f"CAST(try_cast({name} AS BIGINT) AS VARCHAR)"
    text = digits if is_fraction else f"CAST({name} AS VARCHAR)"
    plain = f"regexp_replace({text}, '^([0-9]+)[.]0$', '\\1')"  # as where integers have gaps
    pattern = quoted_text(format_)
    parsed = f"coalesce(try_strptime({text}, {pattern}), try_strptime({plain}, {pattern}))"
    rule = TimeRule(format_, _of_moments(parsed, "TIMESTAMP"))
    query = f"SELECT count({rule.expression}), min({text}) FROM {table}"
    try:
        [[count, example]] = connection.execute(query).fetchall()
    except duckdb.Error as error:
        raise ConfigError(
            f"data.time_format = {format_!r} is not valid: {str(error).splitlines()[0]}",
            hint="write it as for strptime: %d.%m.%Y %H:%M",
        ) from None
    if not count and example is not None:
        raise LogError(
            f"no time in '{column}' is written as data.time_format = {format_!r}; one of them is "
            f"{example!r}",
            hint="write it as for strptime: %d.%m.%Y %H:%M",
        )
    return rule


def _all_possible(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    table: str,
    rule: TimeRule,
    possible: TimeRange,
) -> bool:
    """Return whether a rule puts every whole number into the possible range.

    It suffices to ask of the smallest and the largest, which Parquet files state.
    """
    [ends] = connection.execute(f"SELECT min({name}), max({name}) FROM {table}").fetchall()
    if None in ends:
        return False
    possible_ = f"{rule.expression} BETWEEN {possible.first} AND {possible.last}"
    query = f"SELECT bool_and(coalesce({possible_}, false)) FROM (VALUES (?), (?)) ends ({name})"
    [[fits]] = connection.execute(query, ends).fetchall()
    return bool(fits)


def _any_value(connection: duckdb.DuckDBPyConnection, name: str, table: str) -> bool:
    [count] = connection.execute(f"SELECT count({name}) FROM {table}").fetchall()[0]
    return int(count) > 0


def _expressions(name: str, staged_type: str) -> dict[str, str]:
    """Return the SQL that makes milliseconds, by unit."""
    if staged_type in _INTEGERS:
        return _of_integers(f"CAST({name} AS HUGEINT)")
    if staged_type in ("FLOAT", "DOUBLE"):
        # A double of seconds has no more than seven digits behind the point.
        number, rounded = f"CAST({name} AS DOUBLE)", "round({}, 3)"
    else:  # decimals keep nanoseconds exact
        number, rounded = f"try_cast({name} AS DECIMAL(28, 9))", "{}"
    expressions = {
        unit: f"try_cast(floor({rounded.format(f'{number} * {factor}')}) AS BIGINT)"
        for unit, factor in _FACTORS.items()
    }
    if staged_type == "VARCHAR":
        parsed = _of_moments(f"try_cast({name} AS TIMESTAMPTZ)", "TIMESTAMP WITH TIME ZONE")
        expressions["iso"] = f"CASE WHEN regexp_matches({name}, '{_ISO}') THEN {parsed} END"
    return expressions


def _of_integers(number: str) -> dict[str, str]:
    """Return the same for whole numbers, several times as fast; fractions are floored too."""
    expressions = {"s": f"{number} * 1000", "ms": number}
    for unit, divisor in (("us", 1_000), ("ns", 1_000_000)):
        above = f"(({number} % {divisor} + {divisor}) % {divisor})"
        expressions[unit] = f"({number} - {above}) // {divisor}"
    return {unit: f"try_cast({value} AS BIGINT)" for unit, value in expressions.items()}


def _count_possible(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    rules: dict[str, TimeRule],
    possible: TimeRange,
) -> dict[str, int]:
    counts = ", ".join(
        f"count(*) FILTER (WHERE {rule.expression} BETWEEN {possible.first} AND {possible.last})"
        for rule in rules.values()
    )
    row = connection.execute(f"SELECT {counts} FROM {table}").fetchall()[0]
    return dict(zip(rules, map(int, row), strict=True))


def _no_unit(
    connection: duckdb.DuckDBPyConnection,
    column: str,
    table: str,
    units: list[str],
    possible: TimeRange,
) -> LogError:
    name = quoted_name(column)
    number = f"try_cast({name} AS DOUBLE)"
    query = (
        f"SELECT count({number}) = count({name}), min({name}), max({name}), "
        f"arg_min({name}, {number}), arg_max({name}, {number}) FROM {table}"
    )
    [(are_numbers, *ends)] = connection.execute(query).fetchall()
    smallest, largest = ends[2:] if are_numbers else ends[:2]  # not '99' above '299'
    return LogError(
        f"the times in '{column}' cannot be recognised: from {smallest!r} to {largest!r}, none is "
        f"within {possible} as {', '.join(units)}",
        hint="times are seconds, ms, us or ns since 1970, or ISO 8601; set data.time_format, such "
        "as '%d.%m.%Y %H:%M', if they are written otherwise, or data.time_range if they are right",
    )
