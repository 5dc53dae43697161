"""Whole histories in and out of a Redis server."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from crossfeed.errors import HistoryStoreError
from crossfeed.serving.histories.forgetting import tombstone
from crossfeed.serving.histories.redis.appending import Appending
from crossfeed.serving.histories.redis.client import Client
from crossfeed.serving.histories.redis.records import (
    COUNTER,
    FACTS,
    FORGOTTEN,
    TIMELINES,
    checked,
    content,
    parse,
    timeline,
    user_of,
)
from crossfeed.serving.histories.redis.scripts import FILL
from crossfeed.serving.histories.tables import Row, chunks_of, open_events, rows_of, write_events

__all__ = ["RedisBulkHistories"]

_EVENTS_AT_ONCE = 1_000
"""Events in one call of a script, in which the server answers nobody else."""
_KEYS_AT_ONCE = 100


class RedisBulkHistories:
    """Fills, loads and exports a server's histories, as `BulkHistories` says."""

    def __init__(self, client: Client, appending: Appending) -> None:
        self._client, self._append = client, appending
        self._fill = client.redis.register_script(FILL)

    def is_new(self) -> bool:
        """Return whether the store was never filled and never given an event."""
        with self._client.using("read") as redis:
            facts = redis.hgetall(FACTS)
            return "filled_from" not in facts and (
                "filling_from" in facts or not redis.exists(COUNTER)
            )

    def fill(self, batches: Iterable[pa.RecordBatch], *, origin: str) -> int:
        """Fill a new store; the next call with the same origin continues an interrupted fill.

        Replicas that start together may all call it: they write the same.

        Raises:
            HistoryStoreError: the server does not answer, or holds half of another fill.
        """
        if not self.is_new():
            return 0
        stored = 0
        for batch in batches:
            for rows in chunks_of(rows_of(batch), _EVENTS_AT_ONCE):
                if not self._fill_rows(rows, number=stored + 1, origin=origin, last=False):
                    return 0  # another replica was faster
                stored += len(rows)
        return stored if self._fill_rows([], number=stored + 1, origin=origin, last=True) else 0

    def load(self, file: Path, *, user_ids: pa.DataType, item_ids: pa.DataType) -> tuple[int, int]:
        """Store a file; after an error the rows before it are stored, and none comes twice."""
        stored = 0
        with open_events(file, user_ids=user_ids, item_ids=item_ids) as source:
            for rows in chunks_of(source.events, _EVENTS_AT_ONCE):
                stored += self._append(rows, by_content=True)
        return stored, source.rows - stored

    def export(self, out: Path, *, overwrite: bool = False) -> int:
        """Write all events, user by user in the order in which they came."""
        return write_events(out, self._pages(), store=self._client, overwrite=overwrite)

    def _fill_rows(self, rows: Sequence[Row], *, number: int, origin: str, last: bool) -> bool:
        """Write rows of a fill, `number` the first of them; return False if the store is full."""
        with self._client.using("write"):
            keys = [FACTS, COUNTER, FORGOTTEN, *(timeline(row[0]) for row in rows)]
            args: list[str | int] = [origin, "last" if last else "", number]
            for user_id, item_id, domain, timestamp, _ in map(checked, rows):
                user = tombstone(user_id, salt=self._client.salt)
                args += [timestamp, content(item_id, domain), user]
            outcome = self._fill(keys=keys, args=args)
        if outcome not in ("ok", "full"):
            raise HistoryStoreError(
                f"the history store {self._client} holds half of the histories of bundle {outcome}",
                hint="start once with that bundle, or delete all keys that begin with crossfeed:",
            )
        return bool(outcome == "ok")

    def _pages(self) -> Iterator[Sequence[Row]]:
        """Yield all events some users at a time; a scan may show a key twice."""
        shown: set[str] = set()
        with self._client.using("read") as redis:
            keys = redis.scan_iter(match=f"{TIMELINES}*", count=_KEYS_AT_ONCE)
            while some := list(itertools.islice(keys, _KEYS_AT_ONCE)):
                fresh = [key for key in dict.fromkeys(some) if key not in shown]
                shown.update(fresh)
                if page := self._page(fresh):
                    yield page

    def _page(self, keys: Sequence[str]) -> list[Row]:
        with self._client.redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.zrange(key, 0, -1, withscores=True)
            found = zip(keys, pipeline.execute(), strict=True)
        # Sorted by their bytes, members are in the order in which they came.
        return [row for key, members in found for row in parse(user_of(key), sorted(members))]
