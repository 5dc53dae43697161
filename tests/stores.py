"""Events and small questions for the tests of the history stores."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa

from crossfeed.serving.histories.history import HistoryStore, NewEvent
from crossfeed.serving.ids import Id


def click(name: str, user: Id = "ann", item: Id = "b1", time: int = 1_000) -> NewEvent:
    return NewEvent(event_id=name, user_id=user, item_id=item, domain="books", timestamp=time)


def items(store: HistoryStore, user: Id = "ann") -> list[Id]:
    return [event.item_id for event in store.read_many([user])[0]]


def count(store: HistoryStore) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return store.bulk.export(Path(folder) / "all.parquet")


def batch(*rows: tuple[Id, Id, str, int]) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True))
    return pa.RecordBatch.from_arrays(
        [pa.array(column) for column in columns],
        names=["user_id", "item_id", "domain", "timestamp"],
    )
