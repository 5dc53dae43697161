"""A history store that fails fast and is tried again: what the service puts around its store."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from crossfeed.errors import HistoryStoreError
from crossfeed.serving.availability import ItemFlag, Unavailable
from crossfeed.serving.history import Durability, Event, HistoryStore, NewEvent
from crossfeed.serving.ids import Id

__all__ = ["GuardedStore"]

_PAUSE_SECONDS = 0.5


class GuardedStore:
    """Passes calls on to a store; after a failure it waits a moment before it tries again.

    A server that does not answer costs each caller its timeout. During the pause callers are told
    at once; after it one of them tries while the others are still told at once.
    """

    def __init__(
        self,
        store: HistoryStore,
        *,
        took: Callable[[str, float], None],
        failed: Callable[[str, HistoryStoreError], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Guard a store.

        Args:
            store: the store itself.
            took: is told the operation and its seconds.
            failed: is told the operation that failed, and how; not of callers during a pause.
            clock: seconds; it never goes back.
        """
        self._store = store
        self._took, self._failed, self._clock = took, failed, clock
        self._gate = threading.Lock()
        self._closed_until: dict[str, float] = {}

    def read(self, user_id: Id) -> Sequence[Event]:
        """Return all events of a user, oldest first."""
        with self._watched("read"):
            return self._store.read(user_id)

    def append(self, events: Sequence[NewEvent]) -> tuple[int, int]:
        """Store events durably; return how many were new and how many known by their id."""
        with self._watched("append"):
            return self._store.append(events)

    def forget(self, user_id: Id) -> int:
        """Erase all events of a user; return how many."""
        with self._watched("forget"):
            return self._store.forget(user_id)

    def set_available(self, flags: Sequence[ItemFlag]) -> int:
        """Set which items may be recommended, durably; return how many flags changed."""
        with self._watched("set_available"):
            return self._store.set_available(flags)

    def unavailable(self, *, since: int | None) -> Unavailable | None:
        """Return the items that are not available; None where nothing changed since a version."""
        with self._watched("unavailable"):
            return self._store.unavailable(since=since)

    def check(self) -> Durability:
        """Return what the store promises now that it answers; asked also during a pause.

        Raises:
            HistoryStoreError: it cannot be written.
        """
        try:
            self._store.ping()
            return self._store.durability()
        except HistoryStoreError as error:
            self._failed("ping", error)
            raise

    @contextlib.contextmanager
    def _watched(self, operation: str) -> Iterator[None]:
        self._enter(operation)
        began = self._clock()
        try:
            yield
        except HistoryStoreError as error:
            with self._gate:
                self._closed_until[operation] = self._clock() + _PAUSE_SECONDS
            self._failed(operation, error)
            raise
        self._closed_until.pop(operation, None)
        self._took(operation, self._clock() - began)

    def _enter(self, operation: str) -> None:
        """Let a caller through, or tell it at once that the store failed a moment ago."""
        now = self._clock()
        with self._gate:
            until = self._closed_until.get(operation)
            if until is not None and now < until:
                raise HistoryStoreError(f"the history store failed to {operation} a moment ago")
            if until is not None:  # this caller tries; the others are told at once until it is back
                self._closed_until[operation] = now + _PAUSE_SECONDS
