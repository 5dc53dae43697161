"""Open a behaviour log and check, before any work, that it can be used.

A log is a Parquet, CSV or JSONL file (the text formats also with .gz or .zst), a folder or glob of
such files, several of these, a database's table by its URL, or a table in memory (pandas, pyarrow,
anything that speaks Arrow).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from crossfeed.config import DataConfig
from crossfeed.data.logs.clicks import check_positive, columns_in
from crossfeed.data.logs.databases import is_url
from crossfeed.data.logs.files import Format, check_content, find_files
from crossfeed.data.logs.formats import (
    UNTYPED,
    ArrowTable,
    Input,
    arrow_input,
    database_input,
    file_input,
    source_input,
)
from crossfeed.data.logs.ids import common_type
from crossfeed.data.logs.times import TimeRange, is_time_type, time_range
from crossfeed.data.sources import SOURCES, Source
from crossfeed.errors import ConfigError, LogError

__all__ = ["Log", "Logs", "open_log"]

Logs = str | Path | Sequence[str | Path] | ArrowTable
"""What `prepare` and `validate_log` accept."""

_REQUIRED = ("user_id", "item_id", "domain")
_OPTIONAL = ("timestamp", "label")
_SPLITS_WITHOUT_TIME = ("last-out",)


@dataclass(frozen=True)
class Log:
    """A log whose files and columns have been checked; no row has been read yet."""

    inputs: tuple[Input, ...]
    format: Format | None
    """None for a table in memory or of a database."""
    roles: dict[str, str]
    """The log's own name of user_id, item_id, domain and, where present, timestamp and label."""
    staged: dict[str, str]
    """The SQL type in which each column that is needed is held."""
    positive: str
    """Which rows are clicks, an SQL expression over the log's columns."""
    possible: TimeRange


def open_log(logs: Logs, *, config: DataConfig, source: str | None = None) -> Log:
    """Find a log's files, look into them and settle which of its columns are needed.

    Args:
        logs: a path, several paths or a table in memory; for a `source`, its folder.
        config: the settings of the preparation.
        source: a key of `SOURCES`, for data in a layout of its own.

    Raises:
        LogError: there is no such log, a file is not what its name says, or columns are missing.
        ConfigError: a setting does not fit the log.
    """
    possible = time_range(config)
    with duckdb.connect() as connection:
        inputs, format_ = _inputs(connection, logs, config, source)
        roles = _roles(inputs, config)
        if "timestamp" not in roles and config.split not in _SPLITS_WITHOUT_TIME:
            raise ConfigError(
                f"data.split = {config.split!r} needs times, and the log has no "
                f"'{_column(config, 'timestamp')}' column",
                hint='map one with data.columns.timestamp, or set data.split = "last-out"',
            )
        _require_order(inputs, roles)
        positive = _positive(roles, config, source)
        types = _types(inputs)
        typed = {name: None if format_ in ("CSV", "JSONL") else types[name] for name in types}
        try:
            check_positive(connection, positive, typed)
        except ConfigError:
            _require_alike(inputs, columns_in(positive, types))
            raise
    needed = dict.fromkeys([*roles.values(), *columns_in(positive, types)])
    staged = _staged_types(inputs, roles, list(needed))
    return Log(inputs, format_, roles, staged, positive, possible)


def _inputs(
    connection: duckdb.DuckDBPyConnection, logs: Logs, config: DataConfig, source: str | None
) -> tuple[tuple[Input, ...], Format | None]:
    if source is not None:
        return (source_input(connection, *_source_of(logs, source)),), None
    if not isinstance(logs, str | Path | Sequence):
        return (arrow_input(connection, logs),), None
    given = [logs] if isinstance(logs, str | Path) else list(logs)
    urls = [str(log) for log in given if is_url(log)]
    if urls:
        if len(given) > 1:
            raise LogError("a database's table is a log of its own", hint="give one URL alone")
        return (database_input(connection, urls[0]),), None
    files = find_files(given)
    check_content(files)
    optional = [_column(config, role) for role in _OPTIONAL]
    inputs = tuple(file_input(connection, file, optional=optional) for file in files)
    problems = [input_.problem for input_ in inputs if input_.problem]
    if problems:
        raise LogError(
            "\n".join(problems), hint="the first line gives every column a name of its own"
        )
    return inputs, files[0].format


def _require_order(inputs: Sequence[Input], roles: Mapping[str, str]) -> None:
    if "timestamp" not in roles and inputs[0].database is not None:
        raise LogError(
            f"'{inputs[0].name}' has no times, and the rows of a database's table have no order",
            hint="map a column of times with data.columns.timestamp",
        )


def _source_of(logs: Logs, source: str) -> tuple[Source, Path]:
    if source not in SOURCES:
        raise ConfigError(f"source '{source}' is unknown; it is one of: {', '.join(SOURCES)}")
    if not isinstance(logs, str | Path) and not (isinstance(logs, Sequence) and len(logs) == 1):
        raise LogError(f"the source '{source}' is read from one folder")
    folder = Path(logs if isinstance(logs, str | Path) else logs[0])
    if not folder.exists():
        raise LogError(f"there is no folder '{folder}'")
    return SOURCES[source], folder


def _roles(inputs: Sequence[Input], config: DataConfig) -> dict[str, str]:
    names = {role: _column(config, role) for role in (*_REQUIRED, *_OPTIONAL)}
    wanted = [role for role in names if role in _REQUIRED or role in config.columns]
    problems = []
    for input_ in inputs:
        missing = [
            _shown(role, names[role]) for role in wanted if names[role] not in input_.columns
        ]
        if missing:
            problems.append(
                f"'{input_.name}' has no column {', '.join(missing)}; it has: "
                f"{', '.join(input_.columns)}"
            )
    present = {
        role: name
        for role, name in names.items()
        if role in wanted or any(name in input_.columns for input_ in inputs)
    }
    for role in set(present) - set(wanted):
        lacking = [input_.name for input_ in inputs if present[role] not in input_.columns]
        problems += [f"'{name}' has no column '{role}', which other files have" for name in lacking]
    problems += _doubly_mapped(present)
    if problems:
        raise LogError(
            "\n".join(problems),
            hint="needed are user_id, item_id and domain, possibly timestamp and label; map other "
            'names with data.columns, such as data.columns.user_id = "uid"',
        )
    return present


def _column(config: DataConfig, role: str) -> str:
    return next((theirs for ours, theirs in config.columns.items() if ours == role), role)


def _shown(role: str, name: str) -> str:
    return f"'{name}'" if role == name else f"'{name}' (for {role})"


def _doubly_mapped(roles: dict[str, str]) -> list[str]:
    problems = []
    for name in sorted(set(roles.values())):
        ours = [role for role, theirs in roles.items() if theirs == name]
        if len(ours) > 1:
            problems.append(f"the column '{name}' is mapped twice: as {' and as '.join(ours)}")
    return problems


def _positive(roles: dict[str, str], config: DataConfig, source: str | None) -> str:
    if config.positive is not None:
        return config.positive
    if source is not None and SOURCES[source].positive is not None:
        return str(SOURCES[source].positive)
    return f'"{roles["label"]}" > 0' if "label" in roles else "true"


def _types(inputs: Sequence[Input]) -> dict[str, str]:
    """Return the type of every column; where files differ, that of all their numbers, or text."""
    found: dict[str, set[str]] = {}
    for input_ in inputs:
        for name, type_ in input_.columns.items():
            found.setdefault(name, set()).add(type_)
    return {
        name: next(iter(types)) if len(types) == 1 else common_type(types) or UNTYPED
        for name, types in found.items()
    }


def _require_alike(inputs: Sequence[Input], columns: Sequence[str]) -> None:
    """Say of columns whose type differs between files that they do.

    Raises:
        LogError: a column has several types.
    """
    problems = []
    for name in columns:
        first = {i.columns[name]: i.name for i in reversed(inputs) if name in i.columns}
        if len(first) > 1:
            found = " and ".join(f"{type_} in '{file}'" for type_, file in sorted(first.items()))
            problems.append(f"the column '{name}' is {found}")
    if problems:
        raise LogError(
            "\n".join(problems),
            hint="write it with one type in all files, or name it in data.positive as the text "
            "that it is read as: try_cast(label AS DOUBLE) > 0",
        )


def _staged_types(
    inputs: Sequence[Input], roles: dict[str, str], needed: Sequence[str]
) -> dict[str, str]:
    problems = []
    staged = {}
    types = _types(inputs)
    by_column = {name: {i.columns[name] for i in inputs if name in i.columns} for name in needed}
    for name in needed:
        staged[name] = UNTYPED if types[name].startswith("ENUM") else types[name]
    for role in ("user_id", "item_id"):
        name = roles[role]
        type_ = common_type(by_column[name])
        if type_ is None:
            found = " and ".join(sorted(by_column[name]))
            problems.append(f"the column '{name}' ({role}) is {found}")
        staged[name] = type_ or UNTYPED
    time = roles.get("timestamp")
    if time is not None and len(by_column[time]) > 1:
        staged[time] = UNTYPED  # which keeps nanoseconds exact, as a double does not
    if time is not None and not all(map(is_time_type, by_column[time])):
        found = " and ".join(sorted(by_column[time]))
        problems.append(f"the column '{time}' (timestamp) is {found}")
    staged[roles["domain"]] = UNTYPED
    if problems:
        raise LogError(
            "\n".join(problems),
            hint="ids are either strings or integers, the same in all files; times are numbers, "
            "text, dates or timestamps",
        )
    return staged
