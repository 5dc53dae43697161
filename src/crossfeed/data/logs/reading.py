"""Read an opened log into uniform rows; rows that cannot be read are set apart with a reason."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import ibis.expr.types as ir

from crossfeed.config import DataConfig
from crossfeed.data.dataset import ROW_ORDER
from crossfeed.data.engines.duckdb_engine import DuckDBEngine, did_not_fit
from crossfeed.data.engines.sql import names, quoted_name, quoted_text
from crossfeed.data.logs.cleaning import Cleaned, clean
from crossfeed.data.logs.inputs import UNTYPED, Input, Rejects
from crossfeed.data.logs.opening import Log, label_error
from crossfeed.data.logs.places.files import encoding_problem
from crossfeed.data.logs.values.ids import IdRule, id_rule
from crossfeed.data.logs.values.positive import columns_in, typed_columns
from crossfeed.data.logs.values.times import TimeRule, time_rule
from crossfeed.errors import ConfigError, LogError, QuarantineError

__all__ = ["LogRows", "encoding_notes", "read_log", "reading", "require_readable"]

_FILES_NAMED = 5
_STAGED = "staged_log"
_CLEANED = "cleaned_log"
_PARSED = "parsed_log"
_QUARANTINE = "quarantine"
_READABLE = "readable_log"
_MALFORMED = "malformed row"
_NOT_UTF_8 = "not UTF-8"
_BEHIND = (
    "(SELECT count(*) FROM malformed m "
    "WHERE m.log_file = p.log_file AND m.accepted_before < p.log_row)"
)
"""The number of malformed rows before a row; they are not counted in its number."""


@dataclass(frozen=True)
class LogRows:
    """A log's rows in one uniform shape."""

    rows: ir.Table
    """file, row (from 1 in its file), user_id, item_id, domain, time (ms since 1970), clicked"""
    quarantine: ir.Table
    """file, row (from 1 within its file), reason"""
    total: int
    """Rows of the log, quarantined ones included."""
    clicked: int
    """Rows that are clicks."""
    quarantined: dict[str, int]
    """How many rows cannot be read, by reason."""
    examples: dict[str, str]
    """Where the first row of each reason is."""
    time_unit: str
    user_ids: str
    item_ids: str
    encodings: dict[str, str]
    """File name -> its probable encoding, if its text is not UTF-8."""
    notes: tuple[str, ...]
    """Values that were read differently from how they are written."""


def read_log(engine: DuckDBEngine, log: Log, config: DataConfig) -> LogRows:
    """Read every row of a log.

    Raises:
        LogError: there are no rows, or ids or times cannot be made out.
        ConfigError: `data.positive` fails on the log's values.
    """
    connection = engine.connection
    with reading(log):
        rejects = _stage(engine, log)
        cleaned = clean(
            connection, log, staged=_STAGED, into=_CLEANED, missing_values=config.missing_values
        )
        users, items = (
            id_rule(
                connection,
                log.roles[role],
                table=_CLEANED,
                staged_type=log.staged[log.roles[role]],
                format_=log.format,
            )
            for role in ("user_id", "item_id")
        )
        times = _time_rule(connection, log, config)
        _parse(connection, log, config, cleaned, users, items, times)
        total, clicked, unreadable = _count(connection, log)
        malformed = _number_malformed(connection, log, rejects)
        _set_apart(connection, log)
    counts, examples = _count_quarantine(connection)
    return LogRows(
        rows=_rows(engine, log, unreadable=unreadable, malformed=malformed),
        quarantine=engine.table(_QUARANTINE)
        .order_by("file_number", "row")
        .select("file", "row", "reason"),
        total=total + malformed,
        clicked=clicked,
        quarantined=counts,
        examples=examples,
        time_unit=times.unit,
        user_ids=users.kind,
        item_ids=items.kind,
        encodings=_encodings(connection, log),
        notes=cleaned.notes,
    )


@contextlib.contextmanager
def reading(log: Log) -> Iterator[None]:
    """Turn an error of the engine into "the log cannot be read", unless disk or memory failed.

    Parquet files are not copied: each evaluation of a log's clicks reads them again.
    """
    try:
        yield
    except duckdb.Error as error:
        named = [input_ for input_ in log.inputs if _is_named(input_, str(error))]
        if did_not_fit(error) and not named:
            raise
        named = named or list(log.inputs)
        shown = named[0].shown if len(named) == 1 else "the log"
        reason = str(error).splitlines()[0]
        raise LogError(f"{shown} cannot be read: {reason}", hint=named[0].remedy) from error


def _is_named(input_: Input, text: str) -> bool:
    """Return whether a text names an input, and not a file of a longer name."""
    names = [input_.name, *(str(file) for file in input_.files)]
    return any(re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w./-])", text) for name in names)


def require_readable(log: Log, rows: LogRows, config: DataConfig) -> None:
    """Check that a log has rows, and that enough of them can be read.

    Raises:
        LogError: there is no row.
        QuarantineError: more rows than `data.max_quarantine_share` allows cannot be read.
    """
    if rows.total == 0:
        files = ", ".join(input_.shown for input_ in log.inputs[:_FILES_NAMED])
        more = ", ..." if len(log.inputs) > _FILES_NAMED else ""
        raise LogError(f"the log has no rows: {files}{more}")
    bad = sum(rows.quarantined.values())
    if bad / rows.total <= config.max_quarantine_share:
        return
    reasons = "\n".join(
        f"  {reason}: {count} (first: {rows.examples[reason]})"
        for reason, count in rows.quarantined.items()
    )
    raise QuarantineError(
        f"{bad} of {rows.total} rows cannot be read, more than data.max_quarantine_share = "
        f"{config.max_quarantine_share:g} allows:\n{reasons}",
        hint=_hint(rows),
    )


def _hint(rows: LogRows) -> str:
    for file, encoding in rows.encodings.items():
        return (
            f"'{file}' is not UTF-8; it looks like {encoding}: iconv -f {encoding} -t UTF-8 "
            "OLD > NEW"
        )
    if any("written as" in reason for reason in rows.quarantined):
        return (
            "mend the log, or raise the share; data.missing_values says which words stand for a "
            "missing value"
        )
    return "mend the log, map other columns with data.columns, or raise the share"


def encoding_notes(rows: LogRows) -> tuple[str, ...]:
    """Return a sentence about each file that is not UTF-8."""
    return tuple(
        f"'{file}' is not UTF-8; it looks like {encoding}"
        for file, encoding in rows.encodings.items()
    )


def _stage(engine: DuckDBEngine, log: Log) -> list[Rejects]:
    """Make the needed columns of all files one table, in the order of files and rows."""
    connection = engine.connection
    if _stays_in_its_files(log):
        _view_parquet(connection, log)
        return []
    columns = "".join(f", {quoted_name(name)} {type_}" for name, type_ in log.staged.items())
    connection.execute(
        f"CREATE OR REPLACE TABLE {_STAGED} (crossfeed_file INTEGER, crossfeed_row BIGINT, "
        f"crossfeed_malformed BOOLEAN{columns})"
    )
    ids = {log.roles["user_id"], log.roles["item_id"]}
    all_rejects = []
    with engine.in_order():
        for number, input_ in enumerate(log.inputs):
            rejects = Rejects(f"rejects_{number}", f"reject_scans_{number}")
            present = [name for name in log.staged if name in input_.columns]
            select = input_.select(
                connection, present, ids=ids, domain=log.roles["domain"], rejects=rejects
            )
            into = f"(crossfeed_file, crossfeed_row, crossfeed_malformed, {names(present)})"
            with (
                reading(dataclasses.replace(log, inputs=(input_,))),
                input_.opened(connection, present, scratch=engine.scratch),
            ):
                connection.execute(
                    f"INSERT INTO {_STAGED} {into} SELECT {number}, * FROM ({select})"
                )
            all_rejects.append(rejects)
    return all_rejects if log.format == "CSV" else []


def _stays_in_its_files(log: Log) -> bool:
    """Return whether a log need not be copied: it is Parquet, alike in all files, and has times."""
    if log.format != "Parquet" or "timestamp" not in log.roles:
        return False
    alike = [
        [(one.columns.get(name), name in one.values) for name in log.staged] for one in log.inputs
    ]
    renamed = any(name in one.own_names for one in log.inputs for name in log.staged)
    return not renamed and all(one == alike[0] for one in alike)


def _view_parquet(connection: duckdb.DuckDBPyConnection, log: Log) -> None:
    paths = ", ".join(
        quoted_text(glob.escape(str(input_.file.path))) for input_ in log.inputs if input_.file
    )
    columns = ", ".join(
        f"CAST({_view_value(log, name)} AS {type_}) AS {quoted_name(name)}"
        for name, type_ in log.staged.items()
    )
    connection.execute(
        f"CREATE OR REPLACE VIEW {_STAGED} AS SELECT file_index::INTEGER AS crossfeed_file, "
        f"file_row_number + 1 AS crossfeed_row, false AS crossfeed_malformed, {columns} "
        f"FROM read_parquet([{paths}], hive_partitioning = false)"
    )


def _view_value(log: Log, name: str) -> str:
    """Return the SQL of a column in all files; what their folders name is looked up by file."""
    is_domain = name == log.roles["domain"]
    if name not in log.inputs[0].values:
        return log.inputs[0].value(name, is_domain=is_domain)
    values = ", ".join(one.value(name, is_domain=is_domain) for one in log.inputs)
    return f"[{values}][CAST(file_index AS BIGINT) + 1]"


def _time_rule(connection: duckdb.DuckDBPyConnection, log: Log, config: DataConfig) -> TimeRule:
    if "timestamp" not in log.roles:
        return TimeRule(ROW_ORDER, "rowid")
    column = log.roles["timestamp"]
    return time_rule(
        connection,
        column,
        table=_CLEANED,
        staged_type=log.staged[column],
        unit=config.time_unit,
        format_=config.time_format,
        possible=log.possible,
    )


def _parse(
    connection: duckdb.DuckDBPyConnection,
    log: Log,
    config: DataConfig,
    cleaned: Cleaned,
    users: IdRule,
    items: IdRule,
    times: TimeRule,
) -> None:
    """Make the uniform rows, each with the reason why it cannot be read, if so."""
    own = _own_columns(connection, log, config, users, items)
    problems = {
        **_raw_problems(log, cleaned, times),
        **_parsed_problems(log, users, items, times),
    }
    cases = " ".join(f"WHEN {found} THEN {quoted_text(why)}" for why, found in problems.items())
    uniform = (
        f"SELECT crossfeed_file, crossfeed_row, "
        f"{users.expression} AS crossfeed_user, {items.expression} AS crossfeed_item, "
        f"nullif({quoted_name(log.roles['domain'])}, '') AS crossfeed_domain, "
        f"{times.expression} AS crossfeed_time, CASE {cases} END AS crossfeed_reason, "
        f"{' OR '.join(problems.values())} AS crossfeed_unreadable{own} FROM {_CLEANED}"
    )
    connection.execute(
        f"CREATE OR REPLACE VIEW {_PARSED} AS SELECT crossfeed_file AS log_file, "
        "crossfeed_row AS log_row, crossfeed_user AS user_id, crossfeed_item AS item_id, "
        "crossfeed_domain AS domain, crossfeed_time AS time, "
        f"coalesce(({log.positive}\n), false) AS clicked, crossfeed_reason AS reason, "
        f"crossfeed_unreadable AS unreadable FROM ({uniform})"
    )


def _count(connection: duckdb.DuckDBPyConnection, log: Log) -> tuple[int, int, int]:
    """Return how many rows were parsed, are clicks, and cannot be read."""

    def count(condition: str) -> int:
        # Conditions that the statistics of a Parquet file answer are not asked of its rows.
        query = f"SELECT count(*) FROM {_PARSED} WHERE {condition}"
        [[rows]] = connection.execute(query).fetchall()
        return int(rows)

    unreadable = count("unreadable")
    try:
        clicked = count("clicked AND reason IS NULL" if unreadable else "clicked")
    except duckdb.ConversionException as error:
        raise ConfigError(
            f"data.positive = {log.positive!r} fails on the log's values: {error}",
            hint="let it skip values that are not numbers: try_cast(rating AS DOUBLE) >= 4",
        ) from error
    return count("true"), clicked, unreadable


def _rows(engine: DuckDBEngine, log: Log, *, unreadable: int, malformed: int) -> ir.Table:
    """Return the rows that can be read."""
    files = ", ".join(quoted_text(input_.name) for input_ in log.inputs)
    row = f"log_row + {_BEHIND}" if malformed else "log_row"
    # A condition that every row passes is not repeated in each reading.
    readable = "WHERE reason IS NULL" if unreadable else ""
    engine.connection.execute(
        f"CREATE OR REPLACE VIEW {_READABLE} AS SELECT [{files}][log_file + 1] AS file, "
        f"{row} AS row, user_id, item_id, domain, time, clicked FROM {_PARSED} p {readable}"
    )
    return engine.table(_READABLE)


def _own_columns(
    connection: duckdb.DuckDBPyConnection,
    log: Log,
    config: DataConfig,
    users: IdRule,
    items: IdRule,
) -> str:
    """Return the log's columns that `data.positive` names, with the types their values suggest."""
    values = {}
    types = {name: log.staged[name] for name in columns_in(log.positive, log.staged)}
    for name, type_ in types.items():
        own = f"CAST({quoted_name(name)} AS {type_})"
        is_float = type_ in ("FLOAT", "DOUBLE")  # not a number is neither more nor less than one
        values[name] = f"CASE WHEN NOT isnan({own}) THEN {own} END" if is_float else own
    for role, rule in (("user_id", users), ("item_id", items)):
        if log.roles[role] in values:
            types[log.roles[role]] = "BIGINT" if rule.kind == "integer" else "VARCHAR"
            values[log.roles[role]] = rule.expression
    ids = {log.roles["user_id"], log.roles["item_id"]}
    untyped = [name for name in types if name in log.untyped and name not in ids]
    try:
        typed = typed_columns(
            connection,
            _CLEANED,
            untyped,
            expression=log.positive,
            known={name: type_ for name, type_ in types.items() if name not in untyped},
            missing_values=config.missing_values if log.format == "CSV" else (),
        )
    except ConfigError as error:
        raise label_error(error, log.roles, config, None) from None
    values |= {name: value for name, (_, value) in typed.items()}
    return "".join(f", {value} AS {quoted_name(name)}" for name, value in values.items())


def _raw_problems(log: Log, cleaned: Cleaned, times: TimeRule) -> dict[str, str]:
    """Return the SQL of each reason in the raw columns why a row cannot be read."""
    problems = {_MALFORMED: "crossfeed_malformed"}
    roles = ["user_id", "item_id", "domain"]
    if times.unit != ROW_ORDER:
        roles.append("timestamp")
    for role in roles:
        for word in cleaned.words.get(role, ()):
            found = f"coalesce({cleaned.word_column(role)} = {quoted_text(word)}, false)"
            problems[f"missing {role}, written as {word}"] = found
        name = quoted_name(log.roles[role])
        empty = (
            f" OR {name} = '' OR {name} = '\"\"'" if log.staged[log.roles[role]] == UNTYPED else ""
        )
        nan = f" OR isnan({name})" if log.staged[log.roles[role]] in ("FLOAT", "DOUBLE") else ""
        problems[f"missing {role}"] = f"{name} IS NULL{empty}{nan}"
    return problems


def _parsed_problems(log: Log, users: IdRule, items: IdRule, times: TimeRule) -> dict[str, str]:
    problems = {
        "user_id is neither a string nor a 64-bit integer": f"({users.expression}) IS NULL",
        "item_id is neither a string nor a 64-bit integer": f"({items.expression}) IS NULL",
    }
    if times.unit != ROW_ORDER and not times.all_possible:
        possible = f"BETWEEN {log.possible.first} AND {log.possible.last}"
        problems["unparsable timestamp"] = f"({times.expression}) IS NULL"
        problems["impossible timestamp"] = f"NOT ({times.expression}) {possible}"
    return problems


def _number_malformed(
    connection: duckdb.DuckDBPyConnection, log: Log, rejects: list[Rejects]
) -> int:
    """Count the malformed rows of CSV files, which the numbers of later rows need."""
    connection.execute(
        "CREATE OR REPLACE TABLE malformed "
        "(log_file INTEGER, log_row BIGINT, accepted_before BIGINT, reason VARCHAR)"
    )
    for number, reject in enumerate(rejects):
        before = _lines_before(log.inputs[number])
        _require_closed_quotes(connection, log.inputs[number], reject)
        connection.execute(
            f"INSERT INTO malformed SELECT {number}, line - {before}, "
            f"line - {before} - row_number() OVER (ORDER BY line), "
            f"CASE WHEN encoded THEN '{_NOT_UTF_8}' ELSE '{_MALFORMED}' END FROM "
            "(SELECT line, bool_or(error_type = 'INVALID ENCODING') AS encoded "
            f"FROM {reject.table} GROUP BY line)"
        )
    [[count]] = connection.execute("SELECT count(*) FROM malformed").fetchall()
    return int(count)


def _set_apart(connection: duckdb.DuckDBPyConnection, log: Log) -> None:
    """Collect the quarantined rows; in a CSV, their numbers include malformed rows."""
    files = ", ".join(
        f"({number}, {quoted_text(input_.name)})" for number, input_ in enumerate(log.inputs)
    )
    connection.execute(
        f"CREATE OR REPLACE TABLE {_QUARANTINE} AS "
        "SELECT number AS file_number, name AS file, row, reason "
        f"FROM (SELECT log_file, log_row + {_BEHIND} AS row, reason FROM {_PARSED} p "
        "WHERE reason IS NOT NULL UNION ALL "
        "SELECT log_file, log_row, reason FROM malformed) "
        f"JOIN (VALUES {files}) files (number, name) ON number = log_file"
    )


def _require_closed_quotes(
    connection: duckdb.DuckDBPyConnection, input_: Input, reject: Rejects
) -> None:
    """Refuse a CSV with an unclosed quote: it swallows an unknown number of rows."""
    query = (
        f"SELECT min(line) FROM {reject.table} WHERE error_type = 'UNQUOTED VALUE' "
        "AND contains(trim(csv_line, chr(13) || chr(10)), chr(10))"
    )
    [line] = connection.execute(query).fetchall()[0]
    if line is not None:
        raise LogError(
            f"'{input_.name}' has a quote that is not closed in row "
            f"{line - _lines_before(input_)}; the rows after it cannot be separated",
            hint='close the quote; a quote within a value is written twice: "a ""good"" one"',
        )


def _lines_before(input_: Input) -> int:
    return input_.layout.lines_before if input_.layout else 0


def _encodings(connection: duckdb.DuckDBPyConnection, log: Log) -> dict[str, str]:
    """Return the probable encodings of files with malformed rows that are not UTF-8."""
    query = f"SELECT DISTINCT file FROM {_QUARANTINE} WHERE reason IN (?, ?)"
    named = {file for (file,) in connection.execute(query, [_MALFORMED, _NOT_UTF_8]).fetchall()}
    found = {
        one.name: encoding_problem(one.file)
        for one in log.inputs
        if one.name in named and one.file and one.is_text
    }
    return {name: encoding for name, encoding in found.items() if encoding}


def _count_quarantine(
    connection: duckdb.DuckDBPyConnection,
) -> tuple[dict[str, int], dict[str, str]]:
    found = connection.execute(
        f"SELECT reason, count(*), arg_min(file, (file_number, row)), "
        f"arg_min(row, (file_number, row)) FROM {_QUARANTINE} GROUP BY reason "
        "ORDER BY count(*) DESC, reason"
    ).fetchall()
    counts = {str(reason): int(count) for reason, count, _, _ in found}
    return counts, {str(reason): f"{file}, row {row}" for reason, _, file, row in found}
