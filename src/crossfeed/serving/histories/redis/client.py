"""The way to a Redis server: its URL, its errors, and the version of the keys there."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from crossfeed.errors import HistoryStoreError
from crossfeed.serving.histories.redis.records import (
    EVENT_IDS,
    FACTS,
    FLAGS_OUT,
    FLAGS_SEQUENCE,
    OLD_UNAVAILABLE,
    PERIOD_SECONDS,
    ValueRefused,
    event_id_keys,
)
from crossfeed.serving.histories.redis.scripts import MIGRATE
from crossfeed.serving.histories.redis.settings import hint_for

__all__ = ["FORMAT_VERSION", "Client"]

FORMAT_VERSION = 2

_VALUES = "ids must be strings or integers, times integers; none is missing"


class Client:
    """A server that is asked for the version of its keys before anything else."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        """Make ready to talk to a server; the first call connects, and after a failure the next.

        Raises:
            HistoryStoreError: the URL cannot be read; it is not shown, as it may hold a password.
        """
        try:
            # Every call may be repeated once (an idle connection may have been cut): all of them
            # are idempotent, though a repeated append may count its own events as duplicates.
            self.redis: Redis = Redis.from_url(
                url,
                decode_responses=True,
                socket_timeout=timeout_seconds,
                socket_connect_timeout=timeout_seconds,
                retry=Retry(NoBackoff(), 1),
            )
            _check_url(url, self.redis)
        except (TypeError, ValueError):
            raise HistoryStoreError(
                "the URL of the history store in Redis cannot be read",
                hint="it must be such as redis://USER:PASSWORD@HOST:PORT/DATABASE; DATABASE is a "
                "number, and options are those of redis-py, such as ?socket_timeout=3",
            ) from None
        self._migrate = self.redis.register_script(MIGRATE)
        self._gate = threading.Lock()
        self._salt: str | None = None
        self._closed = False

    @property
    def salt(self) -> str:
        """Return the secret of the store's tombstones; known inside `using`."""
        assert self._salt is not None
        return self._salt

    @contextlib.contextmanager
    def using(self, verb: str) -> Iterator[Redis]:
        """Lend the server once its keys are of this version; its errors become ours.

        Args:
            verb: what a message calls the use.

        Raises:
            HistoryStoreError: the server fails, or its keys are of a newer version.
        """
        if self._closed:
            raise HistoryStoreError("the history store is closed")
        try:
            self._require_format()
            yield self.redis
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

    def close(self) -> None:
        """Let go of the server."""
        self._closed = True
        self.redis.close()

    def __str__(self) -> str:
        given: Mapping[str, Any] = self.redis.connection_pool.connection_kwargs  # Any: redis' own
        where = given.get("path") or f"{given.get('host')}:{given.get('port')}"
        return f"in Redis at {where}, database {given.get('db') or 0}"

    def _require_format(self) -> None:
        """Migrate keys of an older version, once in the life of this client."""
        with self._gate:
            if self._salt is not None:
                return
            present = event_id_keys(time.time())[0]
            old = [OLD_UNAVAILABLE, FLAGS_SEQUENCE, FLAGS_OUT, EVENT_IDS, present]
            given: list[int | str] = [FORMAT_VERSION, secrets.token_hex(32), 2 * PERIOD_SECONDS]
            version, salt = self._migrate(keys=[FACTS, *old], args=given)
            if version != FORMAT_VERSION:
                raise HistoryStoreError(
                    f"the history store {self} has format version {version}; this crossfeed reads "
                    f"{FORMAT_VERSION} and older ones",
                    hint="export it with the version that wrote it, then load it into a new one",
                )
            self._salt = salt


def _check_url(url: str, made: Redis) -> None:
    """Refuse what redis-py passes over, or would find out only when it connects."""
    parts = urlsplit(url)
    database = parts.path.strip("/")
    if parts.scheme != "unix" and database and not database.isdecimal():
        raise ValueError("the database is not a number")
    pool = made.connection_pool
    pool.connection_class(**pool.connection_kwargs)
