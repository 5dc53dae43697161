"""Write the files of a dataset: streamed, so that memory does not grow with the log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import open_memmap

from crossfeed.data.engine import Engine
from crossfeed.data.tables import Tables

__all__ = ["write_parquet", "write_tables"]

_EVENT_TYPES: Mapping[str, type[np.generic]] = {
    "item": np.int32,
    "domain": np.int32,
    "time": np.int64,
    "part": np.uint8,
}


def write_tables(engine: Engine, tables: Tables, folder: Path) -> None:
    """Write index tables and event arrays into a dataset's folder."""
    write_parquet(engine, tables.users.drop("events"), folder / "users.parquet")
    write_parquet(engine, tables.items, folder / "items.parquet")
    write_parquet(engine, tables.domains, folder / "domains.parquet")
    events = folder / "events"
    events.mkdir()
    total = _write_offsets(engine, tables.users, events / "user_offsets.npy")
    _write_events(engine, tables.events, events, total)


def write_parquet(engine: Engine, table: ir.Table, path: Path) -> None:
    """Stream a table into a Parquet file."""
    with pq.ParquetWriter(path, table.schema().to_pyarrow()) as writer:
        for batch in engine.batches(table):
            writer.write_batch(batch)


def _write_offsets(engine: Engine, users: ir.Table, path: Path) -> int:
    count = engine.count(users)
    offsets = open_memmap(path, mode="w+", dtype=np.int64, shape=(count + 1,))
    row = 0
    for batch in engine.batches(users.select("events")):
        offsets[row + 1 : row + 1 + batch.num_rows] = batch["events"].to_numpy()
        row += batch.num_rows
    np.cumsum(offsets, out=offsets)
    offsets.flush()
    return int(offsets[-1])


def _write_events(engine: Engine, events: ir.Table, folder: Path, total: int) -> None:
    arrays = {
        name: open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=(total,))
        for name, dtype in _EVENT_TYPES.items()
    }
    row = 0
    for batch in engine.batches(events.select(*_EVENT_TYPES)):
        for name, array in arrays.items():
            array[row : row + batch.num_rows] = batch[name].to_numpy()
        row += batch.num_rows
    for array in arrays.values():
        array.flush()
