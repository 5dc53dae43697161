"""Stages of a preparation that survive an interruption: finished ones are not repeated.

WORK/engine/         the tables of the embedded engine
WORK/tables/         the tables of another engine
WORK/STAGE.json      a finished stage: its plain facts, and the names of its tables
WORK/question.json   the inputs and settings; work on other ones is deleted
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import ibis.expr.types as ir

from crossfeed.data.engines.choice import open_engine
from crossfeed.data.engines.duckdb_engine import DuckDBEngine, open_duckdb
from crossfeed.data.engines.engine import Engine
from crossfeed.files import only_process, write_json

__all__ = ["Stages", "open_stages"]

Made = TypeVar("Made")

_QUESTION = "question.json"

_log = logging.getLogger(__name__)


class Stages:
    """Runs stages, each once."""

    def __init__(self, embedded: DuckDBEngine, engine: Engine, folder: Path) -> None:
        self.embedded, self.engine, self._folder = embedded, engine, folder

    def run(self, name: str, engine: Engine, kind: type[Made], make: Callable[[], Made]) -> Made:
        """Return the result of `make`, or its saved result from before an interruption.

        Args:
            name: of the stage.
            engine: holds its tables.
            kind: a dataclass of tables and plain JSON values.
            make: makes one in the engine.
        """
        file = self._folder / f"{name}.json"
        if not file.exists():
            self._save(name, engine, make(), file)
        facts = json.loads(file.read_text("utf-8"))
        tables = {field: engine.table(table) for field, table in facts["tables"].items()}
        return kind(**facts["plain"], **tables)

    def _save(self, name: str, engine: Engine, made: Any, file: Path) -> None:  # Any: a dataclass
        values = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
        tables = {key: value for key, value in values.items() if isinstance(value, ir.Table)}
        plain = {key: value for key, value in values.items() if key not in tables}
        saved = {key: engine.save(f"{name}_{key}", table) for key, table in tables.items()}
        write_json(file, {"plain": plain, "tables": saved})


@contextlib.contextmanager
def open_stages(
    folder: Path, *, question: Mapping[str, Any] | None, engine: str, memory_limit: str | None
) -> Iterator[Stages]:
    """Yield the stages of a piece of work.

    The folder is removed at the end. If Ctrl-C, SIGTERM or the end of the process interrupts the
    work, it stays for the next call with the same question.

    Args:
        folder: of the work; a lock beside it keeps other processes out.
        question: the inputs and settings of the work; None if they cannot be recognised later.
        engine: see `open_engine`.
        memory_limit: see `open_duckdb`.

    Raises:
        OutputError: another process is at work there, or the folder cannot be written.
    """
    with only_process(folder.with_name(f"{folder.name}.lock")):
        if question is None or _asked(folder) != question:
            shutil.rmtree(folder, ignore_errors=True)
        keep = False
        try:
            with open_duckdb(folder / "engine", memory_limit=memory_limit) as embedded:
                if question is not None:
                    write_json(folder / _QUESTION, question)
                scratch = folder / "tables"
                with open_engine(engine, embedded, scratch, memory_limit=memory_limit) as opened:
                    yield Stages(embedded, opened, folder)
        except (KeyboardInterrupt, SystemExit):
            keep = question is not None
            if keep:
                _log.info("stopped; the same command continues after the last finished stage")
            raise
        finally:
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)


def _asked(folder: Path) -> Any:  # Any: JSON
    try:
        return json.loads((folder / _QUESTION).read_text("utf-8"))
    except (OSError, ValueError):
        return None
