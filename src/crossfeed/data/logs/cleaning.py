r"""Values in the text of a CSV: words for a missing value, integers written as floats.

A CSV has no types. NA, NULL, \N and the like (`data.missing_values`) are missing values, as an
empty cell is, and are counted word by word. pandas writes the integers of a column with gaps as
floats. If every id or domain of a file ends in .0, it is removed, so 7.0 in one file is the 7 of
another. A file with both 7 and 7.0 is not changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import duckdb

from crossfeed.data.engines.sql import is_word, quoted_name
from crossfeed.data.logs.opening import Log

__all__ = ["Cleaned", "clean"]

_WHOLE_FLOAT = r"-?(0|[1-9][0-9]*)\.0"
_SHOWN = 3


@dataclass(frozen=True)
class Cleaned:
    """The values found in the text of a log, as a view."""

    words: Mapping[str, tuple[str, ...]]
    """The words for a missing value that occur, by role; the column `word_column` has them."""
    notes: tuple[str, ...]

    @staticmethod
    def word_column(role: str) -> str:
        """Return the column that holds the words for missing values."""
        return f"crossfeed_word_{role}"


def clean(
    connection: duckdb.DuckDBPyConnection,
    log: Log,
    *,
    staged: str,
    into: str,
    missing_values: Collection[str],
) -> Cleaned:
    """Make a view of a staged log without words for missing values and integers as floats.

    Args:
        connection: of the engine.
        log: the log.
        staged: the table of its rows.
        into: the name of the view.
        missing_values: words for a missing value in a CSV.
    """
    words: dict[str, tuple[str, ...]] = {}
    floats: dict[str, list[int]] = {}
    if log.format == "CSV":
        for role, column in log.roles.items():
            if role != "label":
                words[role], floats[role] = _found(connection, staged, column, missing_values)
        floats.pop("timestamp", None)  # a time may have a fraction
    changed = ", ".join(
        f"{_value(log.roles[role], own, floats.get(role, []))} AS {quoted_name(log.roles[role])}"
        for role, own in words.items()
        if own or floats.get(role)
    )
    kept = "".join(
        f", CASE WHEN {is_word(quoted_name(log.roles[role]), own)} "
        f"THEN {quoted_name(log.roles[role])} END AS {Cleaned.word_column(role)}"
        for role, own in words.items()
        if own
    )
    order = "" if "timestamp" in log.roles else ", rowid"
    replaced = f" REPLACE ({changed})" if changed else ""
    connection.execute(
        f"CREATE OR REPLACE VIEW {into} AS SELECT *{replaced}{kept}{order} FROM {staged}"
    )
    return Cleaned({r: w for r, w in words.items() if w}, _notes(log, floats))


def _found(
    connection: duckdb.DuckDBPyConnection, table: str, column: str, words: Collection[str]
) -> tuple[tuple[str, ...], list[int]]:
    """Return the words that occur in a column, and the files that write its integers as floats."""
    name = quoted_name(column)
    is_missing = is_word(name, words)
    is_float = f"ends_with({name}, '.0') AND regexp_full_match({name}, '{_WHOLE_FLOAT}')"
    found = connection.execute(
        f"SELECT crossfeed_file, count(*) FILTER ({name} <> '' AND NOT {is_missing}), "
        f"count(*) FILTER ({is_float}), list_sort(list(DISTINCT {name}) FILTER ({is_missing})) "
        f"FROM {table} GROUP BY crossfeed_file ORDER BY crossfeed_file"
    ).fetchall()
    occur = sorted({word for *_, own in found for word in own or ()})
    return tuple(occur), [int(file) for file, values, floats, _ in found if values == floats > 0]


def _value(column: str, words: Collection[str], files: Collection[int]) -> str:
    name = quoted_name(column)
    missing = f"WHEN {is_word(name, words)} THEN NULL " if words else ""
    inside = f"crossfeed_file IN ({', '.join(map(str, files))}) AND " if files else ""
    whole = f"WHEN {inside}ends_with({name}, '.0') THEN left({name}, -2) " if files else ""
    return f"CASE {missing}{whole}ELSE {name} END"


def _notes(log: Log, floats: Mapping[str, list[int]]) -> tuple[str, ...]:
    notes = []
    for role, files in floats.items():
        if files:
            names = ", ".join(f"'{log.inputs[number].name}'" for number in files[:_SHOWN])
            more = ", ..." if len(files) > _SHOWN else ""
            notes.append(
                f"every {role} in {names}{more} ends in .0, as in a column of integers with gaps: "
                "7.0 is read as 7; put text ids in a Parquet file if .0 belongs to them"
            )
    return tuple(notes)
