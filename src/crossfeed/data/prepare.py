"""From a behaviour log to a prepared dataset.

log -> rows (logs) -> codes (tables.encode) -> parts (split) -> indices (tables.index) -> folder
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ibis.expr.types as ir
from rich.console import Console

from crossfeed.config import DataConfig
from crossfeed.data.dataset import Dataset, Part
from crossfeed.data.engine import Engine, open_engine
from crossfeed.data.logs import Log, LogRows, Logs, open_log, read_log, require_readable
from crossfeed.data.manifest import make_manifest
from crossfeed.data.split import SPLITS, Split, SplitInput
from crossfeed.data.tables import encode, index, write_parquet, write_tables
from crossfeed.errors import LogError
from crossfeed.files import atomic_folder, require_free, write_json

__all__ = ["prepare"]

_SCRATCH = ".scratch"

_Stage = Callable[[str], None]
"""Call it with what begins now; what ran before is done."""

_log = logging.getLogger(__name__)


def prepare(
    logs: Logs,
    *,
    out: Path | str,
    config: DataConfig | None = None,
    source: str | None = None,
    overwrite: bool = False,
) -> Dataset:
    """Prepare a log as a dataset.

    Args:
        logs: a file, folder or glob, several of them, or a table in memory; for a `source` its
            folder.
        out: the folder to write; it appears when it is complete.
        config: columns, clicks, filters and split; the defaults if None.
        source: a key of `crossfeed.data.sources.SOURCES`, for data in a layout of its own.
        overwrite: whether an existing `out` is replaced.

    Raises:
        LogError: the log cannot be used, or nothing of it is left.
        QuarantineError: too many of its rows cannot be read.
        ConfigError: a setting does not fit the log.
        OutputError: `out` exists or cannot be written.
    """
    config = config or DataConfig()
    out = Path(out)
    require_free(out, overwrite=overwrite)
    with _stages("prepare") as stage:
        stage("checking the log")
        log = open_log(logs, config=config, source=source)
        with (
            atomic_folder(out, overwrite=overwrite) as folder,
            open_engine(folder / _SCRATCH) as engine,
        ):
            _prepare_into(folder, engine, log, config, source, stage)
        return Dataset.load(out)


def _prepare_into(
    folder: Path, engine: Engine, log: Log, config: DataConfig, source: str | None, stage: _Stage
) -> None:
    stage("reading rows")
    rows = read_log(engine, log, config)
    require_readable(rows, config)
    clicks = rows.rows.filter(rows.rows["clicked"]).drop("clicked")
    not_clicked = rows.total - sum(rows.quarantined.values()) - engine.count(clicks)
    coded = encode(engine, clicks)
    stage(f"filtering and splitting ({config.split})")
    given = SplitInput(coded.clicks, coded.users, coded.domains)
    split = SPLITS[config.split](engine, given, config)
    _require_parts(engine, split, rows, not_clicked, config)
    stage("numbering users and items")
    tables = index(engine, coded, split.events, min_item_events=config.min_item_events)
    stage("writing")
    write_tables(engine, tables, folder)
    write_parquet(engine, rows.quarantine, folder / "quarantine.parquet")
    manifest = make_manifest(
        engine,
        folder=folder,
        log=log,
        rows=rows,
        coded=coded,
        split=split,
        tables=tables,
        not_clicked=not_clicked,
        config=config,
        source=source,
    )
    write_json(folder / "manifest.json", manifest)


def _require_parts(
    engine: Engine, split: Split, rows: LogRows, not_clicked: int, config: DataConfig
) -> None:
    counts = {part: 0 for part in Part}
    by_part: ir.Table = split.events.group_by("part").agg(events=lambda table: table.count())
    counts |= {Part(row["part"]): row["events"] for row in engine.records(by_part)}
    empty = [part.name.lower() for part in (Part.TRAIN, Part.VALIDATION, Part.TEST)]
    empty = [name for name in empty if counts[Part[name.upper()]] == 0]
    if not empty:
        return
    dropped = {"cannot be read": sum(rows.quarantined.values()), "not a click": not_clicked}
    dropped |= split.dropped
    reasons = ", ".join(f"{reason}: {count}" for reason, count in dropped.items() if count)
    raise LogError(
        f"nothing is left for the {' and the '.join(empty)} part; of {rows.total} rows were "
        f"dropped: {reasons or 'none'}",
        hint=_hint(dropped, config),
    )


def _hint(dropped: dict[str, int], config: DataConfig) -> str:
    reason = max(dropped, key=dropped.__getitem__)
    if dropped[reason] and reason == "k-core":
        return (
            f"lower data.min_user_events ({config.min_user_events}) or data.min_item_events "
            f"({config.min_item_events})"
        )
    if dropped[reason] and reason in ("small domain", "later click in a dropped domain"):
        return f"lower data.min_domain_events ({config.min_domain_events})"
    if dropped[reason] and reason == "not a click":
        return "look at data.positive: it yields true for too few rows"
    return f"the log is too small or too uniform in time for data.split = {config.split!r}"


@contextmanager
def _stages(title: str) -> Iterator[_Stage]:
    """Yield a function that announces the next stage; on a terminal a spinner shows it."""
    console = Console(stderr=True)
    began = time.monotonic()
    with console.status(title) as status:

        def begin(stage: str) -> None:
            _log.info("%s: %s", title, stage)
            status.update(f"{title}: {stage} ({time.monotonic() - began:.0f} s so far)")

        yield begin
