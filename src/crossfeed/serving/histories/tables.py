"""Whole histories as Parquet: what every history store loads and exports."""

from __future__ import annotations

import contextlib
import itertools
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from crossfeed.errors import HistoryStoreError, RequestError
from crossfeed.serving.histories.history import POSSIBLE_TIMES, is_possible_time
from crossfeed.serving.ids import ANY_NAME, Id, is_name, restore_id
from crossfeed.table_files import require_table, table_writer

__all__ = [
    "ROWS_AT_ONCE",
    "EventFile",
    "Row",
    "chunks_of",
    "open_events",
    "rows_of",
    "write_events",
]

Row = tuple[Id, Id, str, int, str | None]
"""user_id, item_id, domain, timestamp (ms), event_id; without an event id None."""

ROWS_AT_ONCE = 50_000

_COLUMNS = ("user_id", "item_id", "domain", "timestamp", "event_id")


@dataclass(frozen=True)
class EventFile:
    """A Parquet file of events that is being read."""

    rows: int
    events: Iterator[Row]


@contextlib.contextmanager
def open_events(file: Path, *, user_ids: pa.DataType, item_ids: pa.DataType) -> Iterator[EventFile]:
    """Lend a Parquet file of events for reading; its errors inside the block become one of ours.

    Args:
        file: the file.
        user_ids: the type of the log's user ids, string or int64, which those of the file become.
        item_ids: likewise of its item ids.

    Raises:
        HistoryStoreError: the file cannot be read, or holds an id or a time that the service
            would refuse.
    """
    try:
        with pq.ParquetFile(file) as source:
            rows = itertools.chain.from_iterable(map(rows_of, source.iter_batches(ROWS_AT_ONCE)))
            events = (
                _restored(row, user_ids, item_ids, name=f"row {number} of '{file}'")
                for number, row in enumerate(rows, start=1)
            )
            yield EventFile(source.metadata.num_rows, events)
    except (OSError, pa.ArrowException) as error:
        raise HistoryStoreError(
            f"cannot load '{file}': {error}",
            hint="it must be Parquet with user_id, item_id, domain and timestamp (ms)",
        ) from error


def rows_of(batch: pa.RecordBatch) -> Iterator[Row]:
    """Return the rows of a batch in whatever order it has its columns.

    Raises:
        HistoryStoreError: a column is missing; `event_id` may be.
    """
    columns = {name: batch[name] for name in batch.schema.names}
    missing = [name for name in _COLUMNS[:4] if name not in columns]
    if missing:
        raise HistoryStoreError(
            f"the histories have no column {', '.join(missing)}",
            hint="needed are user_id, item_id, domain and timestamp (ms); event_id may be missing",
        )
    columns.setdefault("event_id", pa.nulls(batch.num_rows))
    times = columns["timestamp"]
    if pa.types.is_temporal(times.type):  # timestamps of whatever unit, or dates
        times = times.cast(pa.timestamp("ms", getattr(times.type, "tz", None)), safe=False)
    columns["timestamp"] = times.cast(pa.int64())
    return zip(*(columns[name].to_pylist() for name in _COLUMNS), strict=True)


def chunks_of(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """Yield rows, at most `size` at a time."""
    while chunk := list(itertools.islice(rows, size)):
        yield chunk


def _restored(
    row: tuple[object, object, object, int | None, object],  # what a file holds
    user_ids: pa.DataType,
    item_ids: pa.DataType,
    *,
    name: str,
) -> Row:
    """Return a row of a file as the service would store it."""
    user_id, item_id, domain, timestamp, event_id = row
    try:
        user_id = restore_id(user_id, user_ids, field="user_id")
        item_id = restore_id(item_id, item_ids, field="item_id")
    except RequestError as error:
        raise HistoryStoreError(
            f"{name}: {error.message}", hint="ids must be those of the log that was trained on"
        ) from None
    for column, value in (("domain", domain), ("event_id", event_id)):
        if not is_name(value) and (column, value) != ("event_id", None):
            raise HistoryStoreError(
                f"{name}: {column} must be {ANY_NAME}; it is {reprlib.repr(value)}",
                hint="an event id may be missing; a domain may be one that no model knows yet",
            )
    if timestamp is None or not is_possible_time(timestamp):
        raise HistoryStoreError(
            f"{name}: timestamp must be {POSSIBLE_TIMES}; it is {timestamp}",
            hint="times must be milliseconds since 1970 (UTC), or a column of timestamps",
        )
    return user_id, item_id, domain, timestamp, event_id  # type: ignore[return-value]  # checked


def write_events(
    out: Path, pages: Iterable[Sequence[Row]], *, store: object, overwrite: bool
) -> int:
    """Write events to a file, the ids as they are stored; return how many.

    Args:
        out: the file to write: Parquet, CSV or JSONL by its suffix.
        pages: rows, so many at a time that one page fits into memory; none is empty.
        store: what a message calls their store.
        overwrite: replace an existing file.

    Raises:
        OutputError: `out` exists and may not be replaced, or cannot be written.
        HistoryStoreError: the store holds ids of two types.
    """
    require_table(out, _COLUMNS, name="file of events", overwrite=overwrite)
    written, waiting = 0, iter(pages)
    first = next(waiting, ())
    schema = _schema(first)
    with table_writer(out, schema) as writer:
        for page in itertools.chain([first] if first else [], waiting):
            try:
                columns = dict(zip(_COLUMNS, zip(*page, strict=True), strict=True))
                writer.write_table(pa.table(columns, schema))
            except pa.ArrowException as error:
                raise HistoryStoreError(
                    f"the history store {store} mixes ids of strings and integers",
                    hint="a column of a table cannot hold both",
                ) from error
            written += len(page)
    return written


def _schema(page: Sequence[Row]) -> pa.Schema:
    ids = page[0][:2] if page else ("", "")
    user_id, item_id = (pa.int64() if isinstance(one, int) else pa.string() for one in ids)
    rest = {"domain": pa.string(), "timestamp": pa.int64(), "event_id": pa.string()}
    return pa.schema({"user_id": user_id, "item_id": item_id, **rest})
