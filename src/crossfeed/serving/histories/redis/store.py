"""The shared history store: a Redis server that several replicas of the service use.

An event is acknowledged when the server answers, which with `appendonly yes` and `appendfsync
always` it does once the event is on its disk. Other settings lose events in a crash; `durability`
says which ones the server has.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence

from redis.exceptions import ResponseError

from crossfeed.serving.histories.availability import ItemFlag, latest_flags
from crossfeed.serving.histories.forgetting import tombstone
from crossfeed.serving.histories.history import Durability, Event, NewEvent
from crossfeed.serving.histories.pins import Pin
from crossfeed.serving.histories.redis.appending import Appending
from crossfeed.serving.histories.redis.bulk import RedisBulkHistories
from crossfeed.serving.histories.redis.client import Client
from crossfeed.serving.histories.redis.records import (
    FLAGS_IN,
    FLAGS_OUT,
    FLAGS_SEQUENCE,
    FORGOTTEN,
    PING,
    PINS,
    Members,
    content,
    event_id_keys,
    parse,
    timeline,
)
from crossfeed.serving.histories.redis.scripts import FORGET, PIN, SET_FLAGS
from crossfeed.serving.histories.redis.settings import durability_of
from crossfeed.serving.ids import Id

__all__ = ["RedisHistoryStore"]

_log = logging.getLogger(__name__)

_REWRITE_SECONDS = 10.0


class RedisHistoryStore:
    """Histories in a Redis server; its keys all begin with `crossfeed:`."""

    def __init__(self, url: str, *, timeout_seconds: float = 2.0) -> None:
        """Make ready to talk to a server; the first call connects, and after a failure the next.

        That call migrates keys of an older version in place.

        Raises:
            HistoryStoreError: the URL cannot be read; it is not shown, as it may hold a password.
        """
        self._client = Client(url, timeout_seconds=timeout_seconds)
        self._append = Appending(self._client)
        self._forget, self._set_flags, self._pin = map(
            self._client.redis.register_script, (FORGET, SET_FLAGS, PIN)
        )
        self.bulk = RedisBulkHistories(self._client, self._append)
        """Fills, loads and exports the server's histories."""

    def append(self, events: Sequence[NewEvent]) -> tuple[int, int]:
        """Store events; on return the server has them on disk, if it is set up so.

        Returns:
            How many were new, and how many were not: an event id that is stored already keeps its
            first event, whatever the later ones hold, and a forgotten user's old events are gone.

        Raises:
            HistoryStoreError: it is not known to be stored; sending it again is harmless.
        """
        rows = [(e.user_id, e.item_id, e.domain, e.timestamp, e.event_id) for e in events]
        accepted = self._append(rows)
        return accepted, len(rows) - accepted

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
        with self._client.using("read") as redis, redis.pipeline(transaction=False) as pipeline:
            for user_id in user_ids:
                pipeline.zrange(timeline(user_id), -(limit or 0), -1, withscores=True)
            found: list[Members] = pipeline.execute()
            return [_events(user_id, some) for user_id, some in zip(user_ids, found, strict=True)]

    def forget(self, user_id: Id) -> int:
        """Erase all events of a user, and have the server rewrite its log; return how many.

        Events of the user up to this moment are not stored again. Old copies lie in the server's
        log until it is rewritten, in the background, and in snapshots until the next one.

        Raises:
            HistoryStoreError: the server does not answer, or does not begin to rewrite its log.
        """
        with self._client.using("write"):
            now = time.time()
            keys = [FORGOTTEN, timeline(user_id), *event_id_keys(now)]
            user = tombstone(user_id, salt=self._client.salt)
            erased = int(self._forget(keys=keys, args=[user, int(now * 1000)]))
            self._rewrite_log()
        return erased

    def set_available(self, flags: Sequence[ItemFlag]) -> int:
        """Set which items may be recommended; on return the server has it on disk, if so set up.

        Raises:
            HistoryStoreError: it is not known to be stored; sending it again is harmless.
        """
        args: list[str] = []
        for (domain, item_id), there in latest_flags(flags).items():
            args += ["in" if there else "out", content(item_id, domain)]
        with self._client.using("write"):
            keys = [FLAGS_SEQUENCE, FLAGS_OUT, FLAGS_IN]
            return int(self._set_flags(keys=keys, args=args))

    def flags_since(self, sequence: int) -> tuple[Sequence[ItemFlag], int]:
        """Return the flags that changed after a sequence, and the sequence as of now.

        Raises:
            HistoryStoreError: the server does not answer.
        """
        with self._client.using("read") as redis:
            now = int(redis.get(FLAGS_SEQUENCE) or 0)
            if now == sequence:
                return [], now
            with redis.pipeline(transaction=True) as pipeline:
                pipeline.get(FLAGS_SEQUENCE)
                pipeline.zrangebyscore(FLAGS_OUT, f"({sequence}", "+inf")
                if sequence:
                    pipeline.zrangebyscore(FLAGS_IN, f"({sequence}", "+inf")
                found, *members = pipeline.execute()
            flags = [
                ItemFlag(item_id, domain, available)
                for available, some in zip((False, True), members, strict=False)
                for item_id, domain in map(json.loads, some)
            ]
        return flags, int(found or 0)

    def pin(self, version: str, *, only_first: bool = False) -> Pin:
        """Put a model into service; return the pin in force.

        Args:
            version: the version of its bundle; pinning what is pinned changes nothing.
            only_first: change nothing either where any model is pinned.

        Raises:
            HistoryStoreError: it is not known to be stored; sending it again is harmless.
        """
        now = int(time.time() * 1000)
        with self._client.using("write"):
            args: list[int | str] = [version, now, "only first" if only_first else ""]
            return _parse_pin(self._pin(keys=[PINS], args=args))

    def pins(self, *, limit: int) -> Sequence[Pin]:
        """Return the newest pins, newest first; the first is in force.

        Raises:
            HistoryStoreError: the server does not answer.
        """
        with self._client.using("read") as redis:
            return [_parse_pin(pin) for pin in reversed(redis.lrange(PINS, -limit, -1))]

    def durability(self) -> Durability:
        """Return what becomes of acknowledged events in a crash, as the server is set up now.

        Raises:
            HistoryStoreError: the server does not answer.
        """
        with self._client.using("read") as redis:
            try:
                settings = redis.config_get("append*", "maxmemory*")
            except ResponseError:  # hosted servers keep their settings to themselves
                return Durability(False, "the server does not tell whether it keeps events")
        return durability_of(settings)

    def ping(self) -> None:
        """Check that the server takes what is written.

        Raises:
            HistoryStoreError: it does not.
        """
        with self._client.using("write") as redis:
            redis.set(PING, "")

    def close(self) -> None:
        """Let go of the server."""
        self._client.close()

    def __str__(self) -> str:
        return str(self._client)

    def _rewrite_log(self) -> None:
        """Begin a rewrite of the server's log that sees what was just erased."""
        deadline = time.monotonic() + _REWRITE_SECONDS
        while True:
            try:
                if self._client.redis.config_get("appendonly").get("appendonly") == "yes":
                    self._client.redis.bgrewriteaof()
                return
            except ResponseError as error:
                if "in progress" not in str(error):  # a hosted server keeps its log to itself
                    _log.warning("old copies stay in the log of the server: %s", error)
                    return
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.02)  # one that began before is still going on


def _events(user_id: Id, members: Members) -> list[Event]:
    rows = parse(user_id, members)
    return [Event(item_id, domain, timestamp) for _, item_id, domain, timestamp, _ in rows]


def _parse_pin(text: bytes | str) -> Pin:
    pin = json.loads(text)
    return Pin(int(pin["sequence"]), str(pin["version"]), int(pin["timestamp"]))
