"""Hashes of a dataset's content, independent of engine, row groups and compression."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

__all__ = ["EVENT_ARRAYS", "TABLES", "combined_hash", "content_hashes"]

TABLES = ("users", "items", "domains")
EVENT_ARRAYS = ("user_offsets", "item", "domain", "time", "part")

_CHUNK = 1 << 20


def content_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each column of a dataset, by `table.column` or `events.array`."""
    hashes = {}
    for table in TABLES:
        with pq.ParquetFile(folder / f"{table}.parquet") as file:
            for column in file.schema_arrow.names:
                hashes[f"{table}.{column}"] = _column_hash(file, column)
    for name in EVENT_ARRAYS:
        hashes[f"events.{name}"] = _array_hash(np.load(folder / "events" / f"{name}.npy", "r"))
    return hashes


def combined_hash(hashes: Mapping[str, str]) -> str:
    """Return one hash of all hashes."""
    text = json.dumps(dict(hashes), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _array_hash(array: NDArray[np.generic]) -> str:
    digest = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    for start in range(0, len(array), _CHUNK):
        chunk = array[start : start + _CHUNK]
        digest.update(np.ascontiguousarray(chunk, chunk.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _column_hash(file: pq.ParquetFile, column: str) -> str:
    """Hash a column as its values, and for text its lengths and its UTF-8 bytes."""
    values, lengths = hashlib.sha256(), hashlib.sha256()
    kind = "none"
    for batch in file.iter_batches(_CHUNK, columns=[column]):
        array = batch[column]
        kind = "int64" if pa.types.is_integer(array.type) else "string"
        if kind == "int64":
            values.update(array.to_numpy(zero_copy_only=False).astype("<i8").tobytes())
            continue
        text = array.cast(pa.large_binary())
        bounds = np.frombuffer(text.buffers()[1], "<i8")[text.offset : text.offset + len(text) + 1]
        lengths.update(np.diff(bounds).tobytes())
        if text.buffers()[2] is not None:
            values.update(memoryview(text.buffers()[2])[bounds[0] : bounds[-1]])
    parts = (kind, str(file.metadata.num_rows), values.hexdigest(), lengths.hexdigest())
    return hashlib.sha256("|".join(parts).encode()).hexdigest()
