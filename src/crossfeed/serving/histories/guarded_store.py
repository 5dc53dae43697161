"""A history store that fails fast and is tried again: what the service puts around its store."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import pyarrow as pa

from crossfeed.errors import HistoryStoreError
from crossfeed.serving.histories.availability import ItemFlag
from crossfeed.serving.histories.history import Durability, Event, HistoryStore, NewEvent
from crossfeed.serving.histories.pins import Pin
from crossfeed.serving.ids import Id

T = TypeVar("T")

__all__ = ["GuardedStore"]

_PAUSE_SECONDS = 0.5


class GuardedStore:
    """Passes calls on to a store; after a failure it waits a moment before it tries again.

    The store is opened by the first call that needs it, so that a store that cannot be opened at
    the moment fails like one that does not answer. A server that does not answer costs each caller
    its timeout. During the pause callers are told at once; after it there is one trial while they
    are still told at once, until it succeeds.
    """

    def __init__(
        self,
        open_store: Callable[[], HistoryStore],
        *,
        took: Callable[[str, float], None],
        failed: Callable[[str, HistoryStoreError], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Guard a store.

        Args:
            open_store: opens the store itself.
            took: is told the operation and its seconds.
            failed: is told the operation that failed, and how; not of callers during a pause.
            clock: seconds; it never goes back.
        """
        self._open_store = open_store
        self._opened: HistoryStore | None = None
        self._opening = threading.Lock()
        self._took, self._failed, self._clock = took, failed, clock
        self._gate = threading.Lock()
        self._closed_until: dict[str, float] = {}
        self._trying: set[str] = set()

    def read_many(
        self, user_ids: Sequence[Id], *, limit: int | None = None
    ) -> list[Sequence[Event]]:
        """Return the newest events of each user, oldest first; none for an unknown user."""
        return self._reading("read", lambda: self._store.read_many(user_ids, limit=limit))

    def append(self, events: Sequence[NewEvent]) -> tuple[int, int]:
        """Store events durably; return how many were new and how many known by their id."""
        return self._writing("append", lambda: self._store.append(events))

    def forget(self, user_id: Id) -> int:
        """Erase all events of a user; return how many."""
        return self._writing("forget", lambda: self._store.forget(user_id))

    def set_available(self, flags: Sequence[ItemFlag]) -> int:
        """Set which items may be recommended, durably; return how many flags changed."""
        return self._writing("set_available", lambda: self._store.set_available(flags))

    def flags_since(self, sequence: int) -> tuple[Sequence[ItemFlag], int]:
        """Return the flags that changed after a sequence, and the sequence as of now."""
        return self._reading("flags", lambda: self._store.flags_since(sequence))

    def pin(self, version: str, *, only_first: bool = False) -> Pin:
        """Put a model into service; return the pin in force."""
        return self._writing("pin", lambda: self._store.pin(version, only_first=only_first))

    def pins(self, *, limit: int) -> Sequence[Pin]:
        """Return the newest pins, newest first; the first is in force."""
        return self._reading("pins", lambda: self._store.pins(limit=limit))

    def fill(self, batches: Iterable[pa.RecordBatch], *, origin: str) -> int:
        """Store a bundle's histories if the store is new; return how many events."""
        return self._writing("fill", lambda: self._store.bulk.fill(batches, origin=origin))

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

    def close(self) -> None:
        """Let go of the store."""
        with self._opening:
            if self._opened is not None:
                self._opened.close()

    def __str__(self) -> str:
        return "that is not open" if self._opened is None else str(self._opened)

    @property
    def _store(self) -> HistoryStore:
        with self._opening:
            if self._opened is None:
                self._opened = self._open_store()
            return self._opened

    def _reading(self, operation: str, read: Callable[[], T]) -> T:
        """Read; in a pause tell the caller at once, and after it try without letting them wait.

        Requests that wait together are answered by few threads: none of them may hang on a trial.
        """
        if self._is_closed(operation):
            if self._may_try(operation):
                self._try_beside(operation, read)
            raise _failed_before(operation)
        with self._watched(operation):
            return read()

    def _try_beside(self, operation: str, read: Callable[[], object]) -> None:
        try:
            threading.Thread(target=self._try, args=(operation, read), daemon=True).start()
        except RuntimeError:  # no thread is to be had: the next caller may try
            self._end_trial(operation)

    def _try(self, operation: str, read: Callable[[], object]) -> None:
        with contextlib.suppress(HistoryStoreError), self._watched(operation):
            read()

    def _writing(self, operation: str, write: Callable[[], T]) -> T:
        """Write; in a pause tell the caller at once, and let the first after it try."""
        if self._is_closed(operation) and not self._may_try(operation):
            raise _failed_before(operation)
        with self._watched(operation):
            return write()

    @contextlib.contextmanager
    def _watched(self, operation: str) -> Iterator[None]:
        began = self._clock()
        try:
            yield
        except HistoryStoreError as error:
            with self._gate:
                self._closed_until[operation] = self._clock() + _PAUSE_SECONDS
            self._failed(operation, error)
            raise
        else:
            if operation in self._closed_until:
                with self._gate:
                    self._closed_until.pop(operation, None)
        finally:  # also after an error that nobody foresaw
            self._end_trial(operation)
        self._took(operation, self._clock() - began)

    def _is_closed(self, operation: str) -> bool:
        return operation in self._closed_until

    def _may_try(self, operation: str) -> bool:
        """Return whether the caller is the one that tries: the pause is over and nobody does."""
        with self._gate:
            until = self._closed_until.get(operation, 0.0)
            if operation in self._trying or self._clock() < until:
                return False
            self._trying.add(operation)
            return True

    def _end_trial(self, operation: str) -> None:
        with self._gate:
            self._trying.discard(operation)


def _failed_before(operation: str) -> HistoryStoreError:
    return HistoryStoreError(f"the history store failed to {operation} a moment ago")
