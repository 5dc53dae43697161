"""One thread writes: operations that wait at the same time share one transaction and one sync.

A durable commit costs a sync of the disk, about 4 ms whatever it holds. Clients that write at the
same time share it.
"""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from crossfeed.errors import HistoryStoreError

__all__ = ["GroupCommit", "Operation"]

T = TypeVar("T")

Operation = Callable[[sqlite3.Connection], object]

_LARGEST_GROUP = 256
"""Operations in one transaction; it bounds how long the first of them waits for the others."""


@dataclass(frozen=True)
class _Task:
    operation: Operation
    then: Operation | None
    future: Future[Any] = field(default_factory=Future)  # Any: each operation has its own result


@dataclass(frozen=True)
class _Outcome:
    result: object = None
    error: Exception | None = None


class GroupCommit:
    """Runs operations on one connection, in the order in which they come."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._open = True
        self._thread = threading.Thread(target=self._work, name="history-writer", daemon=True)
        self._thread.start()

    def run(
        self, operation: Callable[[sqlite3.Connection], T], *, then: Operation | None = None
    ) -> T:
        """Run an operation inside a transaction; return its result once that is durable.

        Args:
            operation: what is to be done.
            then: what must follow outside of any transaction, before this returns; operations of
                one transaction that name the same share one call of it.

        Raises:
            HistoryStoreError: the writer is closed.
            Exception: whatever the operation raised; nothing of it is kept. Other operations of
                the same transaction are.
        """
        task = _Task(operation, then)
        with self._gate:  # nothing may be queued behind the mark that stops the thread
            if not self._open:
                raise HistoryStoreError("the history store is closed")
            self._tasks.put(task)
        result: T = task.future.result()
        return result

    def close(self) -> None:
        """Finish what was queued before, then close the connection."""
        with self._gate:
            if not self._open:
                return
            self._open = False
            self._tasks.put(None)
        self._thread.join()
        self._connection.close()

    def _work(self) -> None:
        while group := self._next_group():
            self._commit(group)

    def _next_group(self) -> list[_Task]:
        """Wait for a task; return it with those that wait behind it, nothing at the end."""
        first = self._tasks.get()
        if first is None:
            return []
        group = [first]
        with contextlib.suppress(queue.Empty):
            while len(group) < _LARGEST_GROUP:
                task = self._tasks.get_nowait()
                if task is None:
                    self._tasks.put(None)
                    break
                group.append(task)
        return group

    def _commit(self, group: list[_Task]) -> None:
        settled = list(zip(group, self._transact(group), strict=True))
        for task, outcome in settled:
            if task.then is None or outcome.error is not None:
                _settle(task, outcome)
        following = [(task, outcome) for task, outcome in settled if not task.future.done()]
        for then in {task.then for task, _ in following if task.then is not None}:
            error = self._follow(then)
            for task, outcome in following:
                if task.then == then:
                    _settle(task, error or outcome)

    def _transact(self, group: list[_Task]) -> list[_Outcome]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            outcomes = [self._attempt(task.operation) for task in group]
            self._connection.execute("COMMIT")
        except Exception as error:
            self._roll_back()
            return [_Outcome(error=error)] * len(group)
        return outcomes

    def _follow(self, then: Operation) -> _Outcome | None:
        """Run what follows a transaction; return an outcome only where it failed."""
        try:
            then(self._connection)
        except Exception as error:
            return _Outcome(error=error)
        return None

    def _attempt(self, operation: Operation) -> _Outcome:
        """Run one operation so that its failure leaves the others of its group alone."""
        self._connection.execute("SAVEPOINT operation")
        try:
            outcome = _Outcome(operation(self._connection))
        except Exception as error:
            if not self._connection.in_transaction:
                raise  # SQLite undid the whole transaction: a full disk, for one
            self._connection.execute("ROLLBACK TO operation")
            outcome = _Outcome(error=error)
        self._connection.execute("RELEASE operation")
        return outcome

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            # A connection that cannot even do this fails at the next BEGIN, and says so there.
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")


def _settle(task: _Task, outcome: _Outcome) -> None:
    if outcome.error is not None:
        task.future.set_exception(outcome.error)
    else:
        task.future.set_result(outcome.result)
