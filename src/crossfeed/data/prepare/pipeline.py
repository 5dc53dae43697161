"""From a behaviour log to a prepared dataset.

log -> rows (logs) -> codes (tables.encode) -> parts (split) -> indices (tables.index) -> folder
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, cast

from rich.console import Console

import crossfeed
from crossfeed.config import DataConfig
from crossfeed.data.dataset import Dataset
from crossfeed.data.engines.choice import DUCKDB, require_engine
from crossfeed.data.logs import (
    Log,
    LogRows,
    Logs,
    encoding_notes,
    open_log,
    read_log,
    reading,
    require_readable,
)
from crossfeed.data.prepare.empty_parts import require_parts
from crossfeed.data.prepare.manifest import make_manifest
from crossfeed.data.prepare.split import SPLITS, Split, SplitInput
from crossfeed.data.prepare.stages import Stages, open_stages
from crossfeed.data.prepare.tables import Coded, encode, index, write_parquet, write_tables
from crossfeed.errors import LogError
from crossfeed.files import atomic_folder, write_json
from crossfeed.outputs import DATASET, require_apart, require_folder

__all__ = ["prepare"]

_log = logging.getLogger(__name__)


def prepare(
    logs: Logs,
    *,
    out: Path | str,
    config: DataConfig | None = None,
    source: str | None = None,
    overwrite: bool = False,
    memory_limit: str | None = None,
    engine: str = DUCKDB,
) -> Dataset:
    """Prepare a log as a dataset.

    Args:
        logs: a file, folder or glob, several of them, the URL of a database's table, or a table
            in memory; for a `source` its folder.
        out: the folder to write; it appears when it is complete.
        config: columns, clicks, filters and split; the defaults if None.
        source: a key of `crossfeed.data.sources.SOURCES`, for data in a layout of its own.
        overwrite: whether an existing `out` is replaced.
        memory_limit: memory limit of the engine, such as "2GiB"; beyond it the engine spills to
            disk beside `out`. None is 3 GiB, or half of a smaller machine's.
        engine: "duckdb", which is embedded; "spark", in the active session or on this machine; or
            a Spark master, such as "spark://host:7077". The dataset is the same.

    Raises:
        MissingExtraError: the engine is not installed.
        LogError: the log is not usable, or no event is left.
        QuarantineError: too many of its rows cannot be read.
        ConfigError: a setting does not fit the log.
        OutputError: `out` exists or cannot be written.
    """
    config = config or DataConfig()
    out = Path(out)
    require_engine(engine)
    require_folder(out, DATASET, inputs=_paths(logs), overwrite=overwrite)
    with _Progress("prepare") as progress:
        progress.begin("checking the log")
        log = open_log(logs, config=config, source=source)
        require_apart(out, [file for input_ in log.inputs for file in input_.files])
        question = _question(log, config, source, engine)
        work = out.with_name(f".{out.name}.preparing")
        with (
            open_stages(
                work, question=question, engine=engine, memory_limit=memory_limit
            ) as stages,
            atomic_folder(out, DATASET, overwrite=overwrite) as folder,
        ):
            _prepare_into(folder, stages, log, config, source, progress)
            if _question(log, config, source, engine) != question:
                raise LogError(
                    "the log changed while it was read, so the rows that were read are unknown",
                    hint="prepare a copy, or wait until nothing is written to it any more",
                )
        return Dataset.load(out)


def _paths(logs: Logs) -> list[Path]:
    """Return the files and folders that are given by name."""
    given = [logs] if isinstance(logs, str | Path) else logs if isinstance(logs, Sequence) else []
    paths = [Path(one) for one in cast("list[object]", given) if isinstance(one, str | Path)]
    return [path for path in paths if path.exists()]


def _question(
    log: Log, config: DataConfig, source: str | None, engine: str
) -> dict[str, Any] | None:
    """Return the inputs and settings of a preparation; None for a table, which may change."""
    if any(input_.file is None and input_.source is None for input_ in log.inputs):
        return None
    paths = [path for input_ in log.inputs for path in input_.files]
    stats = [(path.resolve(), path.stat()) for path in paths]
    return {
        "crossfeed": crossfeed.__version__,
        "config": config.model_dump(mode="json"),
        "source": source,
        "engine": engine,
        "files": [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats],
    }


def _prepare_into(
    folder: Path,
    stages: Stages,
    log: Log,
    config: DataConfig,
    source: str | None,
    progress: _Progress,
) -> None:
    embedded, engine = stages.embedded, stages.engine
    progress.begin("reading rows")
    rows = stages.run("rows", embedded, LogRows, lambda: read_log(embedded, log, config))
    progress.rows = rows.total
    require_readable(log, rows, config)
    for note in (*log.notes, *rows.notes, *encoding_notes(rows)):
        _log.warning("%s", note)
    progress.begin("numbering ids")
    not_clicked = rows.total - sum(rows.quarantined.values()) - rows.clicked
    keep = config.repeats != "first"
    with reading(log):
        readable = engine.adopt("rows", rows.rows)
        clicks = readable.filter(readable["clicked"])
        coded = stages.run("coded", engine, Coded, lambda: encode(engine, clicks, keep=keep))
        progress.begin(f"filtering and splitting ({config.split})")
        given = SplitInput(coded.clicks, rows.clicked, coded.items, coded.users, coded.domains)
        cut = SPLITS[config.split]
        split = stages.run("split", engine, Split, lambda: cut(engine, given, config))
        dropped = {"cannot be read": sum(rows.quarantined.values()), "not a click": not_clicked}
        dropped |= split.dropped
        require_parts(engine, given, split, rows=rows.total, dropped=dropped, config=config)
    progress.begin("numbering users and items")
    tables = index(engine, coded, split, min_item_events=config.min_item_events)
    progress.begin("writing")
    write_tables(engine, tables, folder)
    write_parquet(embedded, rows.quarantine, folder / "quarantine.parquet")
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


class _Progress:
    """Prints each stage on stderr, with its time and rows per second."""

    def __init__(self, title: str) -> None:
        self.rows: int | None = None
        """Number of the log's rows, once known."""
        self._title, self._stage = title, ""
        self._status = Console(stderr=True).status(title)
        self._began = self._stage_began = time.monotonic()

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._status.stop()
        if error == (None, None, None):
            self._end_stage()

    def begin(self, stage: str) -> None:
        """Announce a stage; the stage before has ended."""
        self._end_stage()
        self._stage, self._stage_began = stage, time.monotonic()
        so_far = self._stage_began - self._began
        self._status.update(f"{self._title}: {stage} ({so_far:.0f} s so far)")

    def _end_stage(self) -> None:
        if not self._stage:
            return
        seconds = time.monotonic() - self._stage_began
        rate = f", {self.rows / max(seconds, 1e-3):,.0f} rows/s" if self.rows else ""
        _log.info("%s: %s took %.1f s%s", self._title, self._stage, seconds, rate)
