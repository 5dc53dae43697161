"""The shared history store: a Redis server that several replicas of the service use.

An event is acknowledged when the server answers, which with `appendonly yes` and `appendfsync
always` it does once the event is on its disk. Other settings lose events in a crash; `durability`
says which ones the server has.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from crossfeed.errors import HistoryStoreError
from crossfeed.serving.histories.availability import ItemFlag, Unavailable, latest_flags
from crossfeed.serving.histories.history import Durability, Event, NewEvent
from crossfeed.serving.histories.redis.records import (
    COUNTER,
    EVENT_IDS,
    FACTS,
    FLAGS_VERSION,
    PING,
    TIMELINES,
    UNAVAILABLE,
    Members,
    ValueRefused,
    checked,
    content,
    parse,
    timeline,
    user_of,
)
from crossfeed.serving.histories.redis.scripts import APPEND, FILL, FORGET
from crossfeed.serving.histories.redis.settings import durability_of, hint_for
from crossfeed.serving.histories.tables import Row, chunks_of, open_events, rows_of, write_events
from crossfeed.serving.ids import Id

__all__ = ["RedisHistoryStore"]


_log = logging.getLogger(__name__)

_EVENTS_AT_ONCE = 1_000
"""Events in one call of a script, in which the server answers nobody else."""
_KEYS_AT_ONCE = 100
_REWRITE_SECONDS = 10.0
_VALUES = "ids must be strings or integers, times integers; none is missing"


class RedisHistoryStore:
    """Histories in a Redis server; its keys all begin with `crossfeed:`."""

    def __init__(self, url: str, *, timeout_seconds: float = 2.0) -> None:
        """Make ready to talk to a server; the first call connects, and after a failure the next.

        Raises:
            HistoryStoreError: the URL cannot be read; it is not shown, as it may hold a password.
        """
        try:
            # Every call may be repeated once (an idle connection may have been cut): all of them
            # are idempotent, though a repeated append may count its own events as duplicates.
            self._redis: Redis = Redis.from_url(
                url,
                decode_responses=True,
                socket_timeout=timeout_seconds,
                socket_connect_timeout=timeout_seconds,
                retry=Retry(NoBackoff(), 1),
            )
            _check_url(url, self._redis)
        except (TypeError, ValueError):
            raise HistoryStoreError(
                "the URL of the history store in Redis cannot be read",
                hint="it must be such as redis://USER:PASSWORD@HOST:PORT/DATABASE; DATABASE is a "
                "number, and options are those of redis-py, such as ?socket_timeout=3",
            ) from None
        self._append = self._redis.register_script(APPEND)
        self._fill = self._redis.register_script(FILL)
        self._forget = self._redis.register_script(FORGET)
        self._closed = False

    def append(self, events: Sequence[NewEvent]) -> tuple[int, int]:
        """Store events; on return the server has them on disk, if it is set up so.

        Returns:
            How many were new, and how many had an event id that is stored already; of those the
            first stays, whatever the later ones hold.

        Raises:
            HistoryStoreError: it is not known to be stored; sending it again is harmless.
        """
        rows = [(e.user_id, e.item_id, e.domain, e.timestamp, e.event_id) for e in events]
        accepted = self._append_rows(rows)
        return accepted, len(rows) - accepted

    def read(self, user_id: Id) -> Sequence[Event]:
        """Return all events of a user by their time, also those that came late; ties as they came.

        Raises:
            HistoryStoreError: the server does not answer.
        """
        return self.read_many([user_id])[0]

    def read_many(
        self, user_ids: Sequence[Id], *, limit: int | None = None
    ) -> list[Sequence[Event]]:
        """Return the newest events of each user by their time; ties as they came.

        Args:
            user_ids: the users.
            limit: how many events of each, at least 1; None for all.

        Raises:
            HistoryStoreError: the server does not answer.
        """
        with self._errors("read"), self._redis.pipeline(transaction=False) as pipeline:
            for user_id in user_ids:
                pipeline.zrange(timeline(user_id), -(limit or 0), -1, withscores=True)
            found: list[Members] = pipeline.execute()
            return [_events(user_id, some) for user_id, some in zip(user_ids, found, strict=True)]

    def forget(self, user_id: Id) -> int:
        """Erase all events of a user, and have the server's log written anew; return how many.

        Old copies lie in that log until the server has done so, in the background, and in
        snapshots until it makes the next.

        Raises:
            HistoryStoreError: the server does not answer, or does not begin to rewrite its log.
        """
        with self._errors("write"):
            erased = int(self._forget(keys=[EVENT_IDS, timeline(user_id)]))
            self._rewrite_log()
        return erased

    def set_available(self, flags: Sequence[ItemFlag]) -> int:
        """Set which items may be recommended; on return the server has it on disk, if so set up.

        Raises:
            HistoryStoreError: it is not known to be stored; sending it again is harmless.
        """
        latest = latest_flags(flags)
        members: dict[bool, list[str]] = {True: [], False: []}
        for (domain, item_id), there in latest.items():
            members[there].append(content(item_id, domain))
        with self._errors("write"), self._redis.pipeline(transaction=True) as changes:
            if members[False]:
                changes.sadd(UNAVAILABLE, *members[False])
            if members[True]:
                changes.srem(UNAVAILABLE, *members[True])
            changes.incr(FLAGS_VERSION)
            *changed, _ = changes.execute()
        return sum(map(int, changed))

    def unavailable(self, *, since: int | None) -> Unavailable | None:
        """Return the items that are not available; None where nothing changed since a version.

        Raises:
            HistoryStoreError: the server does not answer.
        """
        with self._errors("read"):
            # The version first: a change between the two reads is then read once more, not missed.
            version = int(self._redis.get(FLAGS_VERSION) or 0)
            if version == since:
                return None
            members: Iterable[Any] = self._redis.smembers(UNAVAILABLE)  # Any: redis-py's reply
            pairs = [json.loads(member) for member in members]
            return Unavailable(version, frozenset((domain, item_id) for item_id, domain in pairs))

    def is_new(self) -> bool:
        """Return whether the store was never filled and never given an event."""
        with self._errors("read"):
            facts = self._redis.hgetall(FACTS)
            return "filled_from" not in facts and (
                "filling_from" in facts or not self._redis.exists(COUNTER)
            )

    def fill(self, batches: Iterable[pa.RecordBatch], *, origin: str) -> int:
        """Store a bundle's histories if the store is new; return how many events.

        Replicas that start together may all call it: they write the same. A fill that breaks off
        is taken up by the next call with the same origin.

        Args:
            batches: user_id, item_id, domain, timestamp (ms).
            origin: where they come from, kept in the store.

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
        """Store the events of a Parquet file such as `export` writes.

        An event is known by its event id, or by user, item, domain and time together. Loading
        the same file again stores nothing twice, also where the first time broke off.

        Args:
            file: the file.
            user_ids: the type of the log's user ids, string or int64, which those of the file
                become.
            item_ids: likewise of its item ids.

        Returns:
            How many were new, and how many were stored already.

        Raises:
            HistoryStoreError: the file cannot be read, holds an id or a time that the service would
                refuse, or the server does not answer; what came before is stored.
        """
        stored = 0
        with open_events(file, user_ids=user_ids, item_ids=item_ids) as source:
            for rows in chunks_of(source.events, _EVENTS_AT_ONCE):
                stored += self._append_rows(rows, by_content=True)
        return stored, source.rows - stored

    def export(self, out: Path, *, overwrite: bool = False) -> int:
        """Write all events as Parquet, user by user in the order in which they came.

        Raises:
            OutputError: `out` exists and may not be replaced, or cannot be written.
            HistoryStoreError: the server does not answer, or the store holds ids of two types.
        """
        return write_events(out, self._pages(), store=self, overwrite=overwrite)

    def durability(self) -> Durability:
        """Return what becomes of acknowledged events in a crash, as the server is set up now.

        Raises:
            HistoryStoreError: the server does not answer.
        """
        with self._errors("read"):
            try:
                settings = self._redis.config_get("append*", "maxmemory*")
            except ResponseError:  # hosted servers keep their settings to themselves
                return Durability(False, "the server does not tell whether it keeps events")
        return durability_of(settings)

    def ping(self) -> None:
        """Check that the server takes what is written.

        Raises:
            HistoryStoreError: it does not.
        """
        with self._errors("write"):
            self._redis.set(PING, "")

    def close(self) -> None:
        """Let go of the server."""
        self._closed = True
        self._redis.close()

    def __str__(self) -> str:
        given: Mapping[str, Any] = self._redis.connection_pool.connection_kwargs  # Any: redis' own
        where = given.get("path") or f"{given.get('host')}:{given.get('port')}"
        return f"in Redis at {where}, database {given.get('db') or 0}"

    def _append_rows(self, rows: Sequence[Row], *, by_content: bool = False) -> int:
        with self._errors("write"):
            good = [checked(row) for row in rows]
            keys = [COUNTER, EVENT_IDS, *(timeline(row[0]) for row in good)]
            args: list[str | int] = ["by content" if by_content else ""]
            for _, item_id, domain, timestamp, event_id in good:
                args += [timestamp, content(item_id, domain), event_id or ""]
            return int(self._append(keys=keys, args=args))

    def _fill_rows(self, rows: Sequence[Row], *, number: int, origin: str, last: bool) -> bool:
        """Write rows of a fill, `number` the first of them; return False if the store is full."""
        keys = [FACTS, COUNTER, *(timeline(row[0]) for row in rows)]
        args: list[str | int] = [origin, "last" if last else "", number]
        for _, item_id, domain, timestamp, _ in map(checked, rows):
            args += [timestamp, content(item_id, domain)]
        with self._errors("write"):
            outcome = self._fill(keys=keys, args=args)
        if outcome not in ("ok", "full"):
            raise HistoryStoreError(
                f"the history store {self} holds half of the histories of bundle {outcome}",
                hint="start once with that bundle, or delete all keys that begin with crossfeed:",
            )
        return bool(outcome == "ok")

    def _rewrite_log(self) -> None:
        """Begin a rewrite of the server's log that sees what was just erased."""
        deadline = time.monotonic() + _REWRITE_SECONDS
        while True:
            try:
                if self._redis.config_get("appendonly").get("appendonly") == "yes":
                    self._redis.bgrewriteaof()
                return
            except ResponseError as error:
                if "in progress" not in str(error):  # a hosted server keeps its log to itself
                    _log.warning("old copies stay in the log of the server: %s", error)
                    return
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.02)  # one that began before is still going on

    def _pages(self) -> Iterator[Sequence[Row]]:
        """Yield all events some users at a time; a scan may show a key twice."""
        shown: set[str] = set()
        with self._errors("read"):
            keys = self._redis.scan_iter(match=f"{TIMELINES}*", count=_KEYS_AT_ONCE)
            while some := list(itertools.islice(keys, _KEYS_AT_ONCE)):
                fresh = [key for key in dict.fromkeys(some) if key not in shown]
                shown.update(fresh)
                if page := self._page(fresh):
                    yield page

    def _page(self, keys: Sequence[str]) -> list[Row]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.zrange(key, 0, -1, withscores=True)
            found = zip(keys, pipeline.execute(), strict=True)
        # Sorted by their bytes, members are in the order in which they came.
        return [row for key, members in found for row in parse(user_of(key), sorted(members))]

    @contextlib.contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        if self._closed:
            raise HistoryStoreError("the history store is closed")
        try:
            yield
        except (RedisError, ValueError) as error:
            # A pipeline's error begins with the command that caused it, which names items or users.
            cause = str(error).rpartition(" of pipeline caused error: ")[2]
            raise HistoryStoreError(
                f"cannot {verb} the history store {self}: {cause}", hint=hint_for(error)
            ) from error
        except ValueRefused as error:
            raise HistoryStoreError(
                f"cannot {verb} the history store {self}: {error}", hint=_VALUES
            ) from None


def _events(user_id: Id, members: Members) -> list[Event]:
    rows = parse(user_id, members)
    return [Event(item_id, domain, timestamp) for _, item_id, domain, timestamp, _ in rows]


def _check_url(url: str, made: Redis) -> None:
    """Refuse what redis-py passes over, or would find out only when it connects."""
    parts = urlsplit(url)
    database = parts.path.strip("/")
    if parts.scheme != "unix" and database and not database.isdecimal():
        raise ValueError("the database is no number")
    pool = made.connection_pool
    pool.connection_class(**pool.connection_kwargs)
