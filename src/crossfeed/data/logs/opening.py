"""Open a behaviour log and check, before any work, that it can be used.

A log is a Parquet, CSV or JSONL file (the text formats also with .gz or .zst), a folder or glob of
such files, their URL, several of these, a database's table by its URL, or a table in memory
(pandas, pyarrow, anything that speaks Arrow).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import duckdb

from crossfeed.config import DataConfig
from crossfeed.data.logs.columns import (
    ArrowTable,
    arrow_input,
    database_input,
    file_input,
    source_input,
    without_values,
)
from crossfeed.data.logs.inputs import NO_TYPE, UNTYPED, Input
from crossfeed.data.logs.places.files import Format, LogFile, check_content, raise_all
from crossfeed.data.logs.places.finding import find_files
from crossfeed.data.logs.places.remote import is_file_url
from crossfeed.data.logs.places.urls import url_scheme
from crossfeed.data.logs.values.domains import domain_rule, hive_values
from crossfeed.data.logs.values.ids import common_type
from crossfeed.data.logs.values.positive import check_positive, columns_in
from crossfeed.data.logs.values.times import TimeRange, common_time_type, time_range
from crossfeed.data.sources import SOURCES, Source
from crossfeed.errors import ConfigError, LogError, require_type

__all__ = ["Log", "Logs", "open_log"]

Logs = str | Path | Sequence[str | Path] | ArrowTable
"""The logs that `prepare` and `validate_log` accept."""

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
    untyped: frozenset[str]
    """Needed text columns, whose type follows from their values."""
    positive: str
    """Which rows are clicks, an SQL expression over the log's columns."""
    possible: TimeRange
    notes: tuple[str, ...] = ()
    """Ignored files, and why."""


def open_log(logs: Logs, *, config: DataConfig, source: str | None = None) -> Log:
    """Find a log's files, look into them and settle which of its columns are needed.

    Args:
        logs: a path, several paths or a table in memory; for a `source`, its folder.
        config: the settings of the preparation.
        source: a key of `SOURCES`, for data in a layout of its own.

    Raises:
        LogError: the log is missing, a file has another format than its name, or lacks columns.
        ConfigError: a setting does not fit the log.
    """
    require_type(config, DataConfig, "config", hint="DataConfig(...), or load_config(...).data")
    possible = time_range(config)
    with duckdb.connect() as connection:
        inputs, notes = _inputs(connection, logs, config, source)
        inputs = _with_domains(tuple(map(_with_hive_values, inputs)), config)
        roles = _roles(inputs, config)
        if "timestamp" not in roles and config.split not in _SPLITS_WITHOUT_TIME:
            raise ConfigError(
                f"data.split = {config.split!r} needs times, and the log has no "
                f"'{_column(config, 'timestamp')}' column",
                hint='map one with data.columns.timestamp, or set data.split = "last-out"',
            )
        _require_order(inputs, roles)
        positive = _positive(roles, config, source)
        named = columns_in(positive, {name: None for one in inputs for name in one.columns})
        needed = list(dict.fromkeys([*roles.values(), *named]))
        _require_usable(inputs, needed, positive)
        inputs = tuple(_without_empty_types(connection, inputs, needed))
        types = _types(inputs)
        untyped = frozenset(name for name in needed if _is_untyped(inputs, name))
        known = {name: None if _is_untyped(inputs, name) else types[name] for name in types}
        try:
            check_positive(connection, positive, known)
        except ConfigError as error:
            _require_alike(inputs, columns_in(positive, types))
            raise label_error(error, roles, config, source) from None
    staged = _staged_types(inputs, roles, needed)
    format_ = inputs[0].file.format if inputs[0].file else None
    return Log(inputs, format_, roles, staged, untyped, positive, possible, notes)


def label_error(
    error: ConfigError, roles: Mapping[str, str], config: DataConfig, source: str | None
) -> Exception:
    """Return an error of the default rule as an error of the label: the user wrote no rule."""
    if config.positive is not None or source is not None or "label" not in roles:
        return error
    return LogError(
        f"the column '{roles['label']}' (label) holds neither numbers nor true and false, so "
        "it does not say which rows are clicks",
        hint=f"say it with data.positive, such as: {roles['label']} = 'click'",
    )


def _inputs(
    connection: duckdb.DuckDBPyConnection, logs: Logs, config: DataConfig, source: str | None
) -> tuple[tuple[Input, ...], tuple[str, ...]]:
    if source is not None:
        return (source_input(connection, *_source_of(logs, source)),), ()
    if isinstance(logs, Mapping):
        raise LogError(
            "a log is one table, not a mapping of them",
            hint="put the tables together, with the column 'domain': "
            "pandas.concat(tables, names=['domain']).reset_index()",
        )
    if not isinstance(logs, str | Path | Sequence):
        return (arrow_input(connection, logs),), ()
    given = [logs] if isinstance(logs, str | Path) else list(logs)
    for one in cast("list[object]", given):
        if not isinstance(one, str | Path):
            raise LogError(
                f"a log is a table or a list of paths; this is a list of {type(one).__name__}",
                hint="make one table of it, such as pandas.DataFrame(rows)",
            )
    urls = [str(log) for log in given if url_scheme(log) and not is_file_url(log)]
    if urls:
        if len(given) > 1:
            raise LogError("a database's table is a log of its own", hint="give one URL alone")
        return (database_input(connection, urls[0]),), ()
    found = find_files(given)
    files = check_content(found.files)
    inputs = _file_inputs(connection, files, config)
    with_rows = tuple(one for one in inputs if one.has_rows) or inputs
    left_out = {file.name for file in found.files} - {one.name for one in with_rows}
    empty = [f"'{name}' is left out: it has no rows" for name in sorted(left_out)]
    return with_rows, (*found.notes, *empty)


def _file_inputs(
    connection: duckdb.DuckDBPyConnection, files: Sequence[LogFile], config: DataConfig
) -> tuple[Input, ...]:
    optional = [_column(config, role) for role in _OPTIONAL]
    inputs, problems, hints = [], [], []
    for file in files:
        try:
            inputs.append(file_input(connection, file, optional=optional, header=config.header))
        except LogError as error:
            problems.append(error.message)
            hints.append(error.hint or "write it again: one name for each column in the first line")
    raise_all(problems, hint="; ".join(dict.fromkeys(hints)))
    return tuple(inputs)


def _with_hive_values(input_: Input) -> Input:
    """Add the columns that the folders of a file name, unless the file has them itself."""
    if input_.file is None:
        return input_
    own = {*input_.columns, *input_.unusable}
    path = input_.file.url or input_.file.path.absolute().as_posix()
    return _with_values(
        input_, {name: value for name, value in hive_values(path).items() if name not in own}
    )


def _with_domains(inputs: tuple[Input, ...], config: DataConfig) -> tuple[Input, ...]:
    """Give each input the domain that `data.columns.domain` tells without a column."""
    rule = domain_rule(config.columns.get("domain", ""))
    if rule is None:
        return inputs
    paths = [
        (one.file.url or one.file.path.absolute().as_posix()) if one.file else None
        for one in inputs
    ]
    domains = [rule(path) for path in paths]
    raise_all(
        [
            f"'{one.name}' does not end as data.columns.domain = {config.columns['domain']!r} says"
            for one, domain in zip(inputs, domains, strict=True)
            if domain is None
        ],
        hint='{domain} stands for a part of each path, as in "{domain}.csv", "{domain}/*" or '
        '"clicks_{domain}_*"; "{constant:books}" is one domain for the whole log',
    )
    return tuple(
        _with_values(one, {"domain": domain}) for one, domain in zip(inputs, domains, strict=True)
    )


def _with_values(input_: Input, values: Mapping[str, str | None]) -> Input:
    return replace(
        input_,
        columns={**input_.columns, **dict.fromkeys(values, UNTYPED)},
        values={**input_.values, **values},
        unusable={name: why for name, why in input_.unusable.items() if name not in values},
    )


def _require_usable(inputs: Sequence[Input], needed: Sequence[str], positive: str) -> None:
    """Check that the names of needed columns are unique.

    Raises:
        LogError: a column cannot be used, or two that are needed differ by case alone.
    """
    problems = [
        f"{one.shown}: the column '{name}' {one.unusable[name]}"
        for one in inputs
        for name in columns_in(positive, one.unusable)
    ]
    plain = [name.lower() for name in needed]
    problems += [
        f"the columns {' and '.join(map(repr, needed))} differ by case alone"
        for name in sorted(set(plain))
        if plain.count(name) > 1
    ]
    raise_all(problems, hint="rename one of them")


def _is_untyped(inputs: Sequence[Input], name: str) -> bool:
    """Return whether the values of a column tell its type."""
    return all(
        one.is_text or name in one.values or one.columns[name] == NO_TYPE
        for one in inputs
        if name in one.columns
    )


def _without_empty_types(
    connection: duckdb.DuckDBPyConnection, inputs: Sequence[Input], needed: Sequence[str]
) -> Iterator[Input]:
    """Take from columns without any value the type that their writer guessed.

    Only where types differ between files: there such a column must not decide.
    """
    types = {name: {one.columns[name] for one in inputs if name in one.columns} for name in needed}
    differing = [name for name, found in types.items() if len(found - {NO_TYPE}) > 1]
    for one in inputs:
        empty = [
            name
            for name in differing
            if name in one.columns
            and one.columns[name] != NO_TYPE
            and without_values(connection, one, name)
        ]
        yield replace(one, columns={**one.columns, **dict.fromkeys(empty, NO_TYPE)})


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
        problems += [
            f"{input_.shown}: the column {_shown(role, name)} {input_.unusable[name]}"
            for role, name in names.items()
            if name in input_.unusable
        ]
        known = {*input_.columns, *input_.unusable}
        missing = [_shown(role, names[role]) for role in wanted if names[role] not in known]
        if missing:
            there = ", ".join(f"'{name}'" for name in input_.columns) or "none"
            problems.append(f"{input_.shown} has no column {', '.join(missing)}; it has: {there}")
    present = {
        role: name
        for role, name in names.items()
        if role in wanted or any(name in input_.columns for input_ in inputs)
    }
    for role in set(present) - set(wanted):
        lacking = [input_.name for input_ in inputs if present[role] not in input_.columns]
        problems += [f"'{name}' has no column '{role}', which other files have" for name in lacking]
    problems += _doubly_mapped(present)
    raise_all(
        problems,
        hint="needed are user_id, item_id and domain, possibly timestamp and label; map other "
        'names with data.columns, such as data.columns.user_id = "uid"; a domain may also be in '
        'the path, data.columns.domain = "{domain}.csv", or one for all, "{constant:books}"; '
        "data.header names the columns of a CSV without a header line",
    )
    return present


def _column(config: DataConfig, role: str) -> str:
    name = next((theirs for ours, theirs in config.columns.items() if ours == role), role)
    return role if role == "domain" and "{" in name else name


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
    """Return the type of every column; if files differ, a type for all their numbers, or text."""
    found: dict[str, set[str]] = {}
    for input_ in inputs:
        for name, type_ in input_.columns.items():
            found.setdefault(name, set()).add(type_)
    return {name: _type_of_all(types) for name, types in found.items()}


def _type_of_all(types: set[str]) -> str:
    typed = types - {NO_TYPE} or {UNTYPED}
    return next(iter(typed)) if len(typed) == 1 else common_type(typed) or UNTYPED


def _require_alike(inputs: Sequence[Input], columns: Sequence[str]) -> None:
    """Refuse columns with different types in different files.

    Raises:
        LogError: a column has several types.
    """
    problems = []
    for name in columns:
        if len({i.columns[name] for i in inputs if name in i.columns} - {NO_TYPE}) > 1:
            problems.append(f"the column '{name}' is {_by_file(inputs, name)}")
    raise_all(
        problems,
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
    typed = {name: found - {NO_TYPE} or {UNTYPED} for name, found in by_column.items()}
    for name in needed:
        staged[name] = UNTYPED if types[name].startswith("ENUM") else types[name]
    for role in ("user_id", "item_id"):
        name = roles[role]
        type_ = common_type(typed[name])
        if type_ is None:
            problems.append(f"the column '{name}' ({role}) is {_by_file(inputs, name)}")
        staged[name] = type_ or UNTYPED
    time = roles.get("timestamp")
    if time is not None:
        common = common_time_type(typed[time])
        if common is None:
            problems.append(f"the column '{time}' (timestamp) is {_by_file(inputs, time)}")
        staged[time] = common or UNTYPED
    staged[roles["domain"]] = UNTYPED
    raise_all(
        problems,
        hint="ids are either strings or integers, the same in all files; times are numbers, "
        "text, dates or timestamps",
    )
    return staged


def _by_file(inputs: Sequence[Input], name: str) -> str:
    """Return the types of a column; several types each with a file that has it."""
    first = {i.columns[name]: i.name for i in reversed(inputs) if name in i.columns}
    first.pop(NO_TYPE, None)
    if len(first) == 1:
        return next(iter(first))
    return " and ".join(f"{type_} in '{file}'" for type_, file in sorted(first.items()))
