"""Which engine evaluates a preparation, by its name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from crossfeed.data.engines.duckdb_engine import DuckDBEngine
from crossfeed.data.engines.engine import Engine
from crossfeed.errors import ConfigError

__all__ = ["DUCKDB", "open_engine", "require_engine"]

DUCKDB = "duckdb"
_SPARK = "spark"
_MASTERS = ("spark://", "local", "k8s://", "yarn")


def require_engine(name: str) -> None:
    """Check the name of an engine.

    Raises:
        ConfigError: there is no such engine.
    """
    if name not in (DUCKDB, _SPARK) and not name.startswith(_MASTERS):
        raise ConfigError(
            f"there is no engine '{name}'",
            hint=f"it is {DUCKDB}, {_SPARK}, or a Spark master: spark://host:7077, local[4], yarn",
        )


@contextlib.contextmanager
def open_engine(
    name: str, embedded: DuckDBEngine, scratch: Path, *, memory_limit: str | None
) -> Iterator[Engine]:
    """Yield the engine of a name.

    Args:
        name: "duckdb", "spark" or a Spark master.
        embedded: the engine that parses logs, and is what "duckdb" means.
        scratch: where another engine keeps its tables.
        memory_limit: of an engine on this machine.
    """
    if name == DUCKDB:
        yield embedded
        return
    from crossfeed.data.engines.spark_engine import open_spark

    master = None if name == _SPARK else name
    with open_spark(master, scratch, embedded, memory=memory_limit) as engine:
        yield engine
