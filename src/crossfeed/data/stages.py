"""The stages of a preparation that survive its end: what is finished is not done again.

WORK/work.duckdb     the tables of all stages
WORK/STAGE.json      a finished stage: its plain facts, and the names of its tables
WORK/question.json   what is prepared; other work is thrown away
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import ibis.expr.types as ir

from crossfeed.data.engine import Engine, open_engine
from crossfeed.files import write_json

__all__ = ["Stages", "open_stages"]

Made = TypeVar("Made")

_QUESTION = "question.json"


class Stages:
    """Runs stages in an engine, each once."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self._folder = engine, folder

    def run(self, name: str, kind: type[Made], make: Callable[[], Made]) -> Made:
        """Return what `make` gives, or what it gave before the work broke off.

        Args:
            name: of the stage.
            kind: a dataclass of tables and of what JSON can hold.
            make: makes one in the engine.
        """
        file = self._folder / f"{name}.json"
        if not file.exists():
            self._save(name, make(), file)
        facts = json.loads(file.read_text("utf-8"))
        tables = {field: self.engine.table(table) for field, table in facts["tables"].items()}
        return kind(**facts["plain"], **tables)

    def _save(self, name: str, made: Any, file: Path) -> None:  # Any: a dataclass
        values = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
        tables = {key: value for key, value in values.items() if isinstance(value, ir.Table)}
        plain = {key: value for key, value in values.items() if key not in tables}
        views = {key: self.engine.view(f"{name}_{key}", table) for key, table in tables.items()}
        self.engine.checkpoint()
        write_json(file, {"plain": plain, "tables": views})


@contextlib.contextmanager
def open_stages(
    folder: Path, *, question: Mapping[str, Any] | None, memory_limit: str | None
) -> Iterator[Stages]:
    """Yield the stages of a piece of work.

    The folder is removed at the end, except where the work is broken off by Ctrl-C, by SIGTERM or
    by the end of the process: there it stays for the next call with the same question.

    Args:
        folder: where the work lies.
        question: what the work depends on; None where it cannot be known again.
        memory_limit: see `open_engine`.
    """
    if question is None or _asked(folder) != question:
        shutil.rmtree(folder, ignore_errors=True)
    keep = False
    try:
        with open_engine(folder / "engine", memory_limit=memory_limit) as engine:
            if question is not None:
                write_json(folder / _QUESTION, question)
            yield Stages(engine, folder)
    except (KeyboardInterrupt, SystemExit):
        keep = question is not None
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _asked(folder: Path) -> Any:  # Any: JSON
    try:
        return json.loads((folder / _QUESTION).read_text("utf-8"))
    except (OSError, ValueError):
        return None
