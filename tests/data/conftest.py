"""Read and prepare small logs written by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from data.spark import spark

from crossfeed.config import DataConfig
from crossfeed.data.dataset import Dataset, Part
from crossfeed.data.engines.duckdb_engine import DuckDBEngine, open_duckdb
from crossfeed.data.logs import LogRows, Logs, open_log, read_log
from crossfeed.data.prepare.pipeline import prepare

__all__ = ["spark"]
"""Known to all modules from here: each that imported it would stop the one Spark by itself."""

Row = dict[str, Any]  # Any: a log's own values

EVERYTHING = {"min_user_events": 1, "min_item_events": 1, "min_domain_events": 1}
"""Settings that drop nothing."""


@dataclass(frozen=True)
class ReadLog:
    """A log as rows in memory."""

    rows: list[Row]
    quarantine: list[Row]
    told: LogRows


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[DuckDBEngine]:
    with open_duckdb(tmp_path / "scratch") as engine:
        yield engine


@pytest.fixture
def read(engine: DuckDBEngine) -> Callable[..., ReadLog]:
    """Return a function that reads one log; keywords are settings of `[data]`."""

    def read_one(logs: Logs, **settings: object) -> ReadLog:
        config = DataConfig.model_validate(settings)
        told = read_log(engine, open_log(logs, config=config), config)
        return ReadLog(
            engine.records(told.rows.order_by("file", "row").drop("file", "row")),
            engine.records(told.quarantine),
            told,
        )

    return read_one


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., Dataset]:
    """Return a function that prepares a log; keywords are settings of `[data]`."""

    def prepare_one(
        logs: Logs,
        *,
        source: str | None = None,
        name: str = "dataset",
        engine: str = "duckdb",
        **settings: object,
    ) -> Dataset:
        config = DataConfig.model_validate({**EVERYTHING, **settings})
        return prepare(logs, out=tmp_path / name, config=config, source=source, engine=engine)

    return prepare_one


@pytest.fixture
def events() -> Callable[[Dataset], list[tuple[object, ...]]]:
    """Return a function that lists a dataset's events: user, domain, item, part."""
    return _events


def _events(dataset: Dataset) -> list[tuple[object, ...]]:
    users, items = dataset.user_ids.to_pylist(), [*dataset.item_ids.to_pylist(), None]
    numbers = range(len(dataset.event_item))
    return [
        (
            users[dataset.users_of(numbers)[number]],
            dataset.catalogue.domains[dataset.event_domain[number]],
            items[dataset.event_item[number]],
            Part(dataset.event_part[number]).name,
        )
        for number in numbers
    ]
