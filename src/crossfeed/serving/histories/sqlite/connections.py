"""One writer and as many readers of a store's file as are needed at once."""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from crossfeed.errors import HistoryStoreError
from crossfeed.serving.histories.group_commit import GroupCommit, Operation
from crossfeed.serving.histories.sqlite.file import create, hint_for, open_file

__all__ = ["Connections"]

T = TypeVar("T")


class Connections:
    """Connections to one file, or to one database in memory, where readers wait for the writer."""

    def __init__(self, path: Path | None, *, busy_seconds: float) -> None:
        """Open the file, or create it.

        Raises:
            HistoryStoreError: it cannot be opened or is not a history store of this version.
        """
        self.path = path
        self._busy_seconds = busy_seconds
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._closed = threading.Event()
        if path is not None:
            create(path)
        with self._errors("open"):
            self._writer = GroupCommit(open_file(path, busy_seconds=busy_seconds))

    def write(
        self, operation: Callable[[sqlite3.Connection], T], *, then: Operation | None = None
    ) -> T:
        """Run an operation in a transaction; on return it is on disk (see `GroupCommit.run`).

        Raises:
            HistoryStoreError: nothing of it was stored.
        """
        with self._errors("write"):
            return self._writer.run(operation, then=then)

    def read(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run an operation that only reads.

        Raises:
            HistoryStoreError: the file cannot be read.
        """
        if self.path is None:
            return self.write(operation)
        with self._errors("read"), self._reader() as connection:
            return operation(connection)

    def close(self) -> None:
        """Finish what was asked for and let go of the file."""
        self._closed.set()
        self._writer.close()
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    def __str__(self) -> str:
        return "in memory" if self.path is None else f"'{self.path}'"

    @contextlib.contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection to one reader at a time."""
        if self._closed.is_set():
            raise HistoryStoreError("the history store is closed")
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = open_file(self.path, busy_seconds=self._busy_seconds)
        try:
            yield connection
        finally:
            if self._closed.is_set():
                connection.close()
            else:
                self._idle.put(connection)

    @contextlib.contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OverflowError) as error:
            raise HistoryStoreError(
                f"cannot {verb} the history store {self}: {error}", hint=hint_for(error)
            ) from error
