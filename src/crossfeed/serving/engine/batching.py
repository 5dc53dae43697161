"""Micro-batching: requests that wait at the same time are answered together, by one thread.

Nobody waits for others to come: a request that finds a thread idle is taken alone at once, and what
comes while all are busy forms the next batch. A batch shares one pass of the encoder, one hop from
the event loop to a thread and one back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

__all__ = ["BatchingThreads"]

Task = TypeVar("Task")
Result = TypeVar("Result")

_LARGEST_BATCH = 64
"""Tasks that are taken at once: it bounds how long the first of them waits for the others."""


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Task, Result]):
    task: Task
    future: asyncio.Future[Result]
    mailbox: _Mailbox


class BatchingThreads(Generic[Task, Result]):
    """Threads that work for an event loop; they begin with the first task."""

    def __init__(
        self,
        work: Callable[[Sequence[Task]], Sequence[Result | Exception]],
        *,
        threads: int,
    ) -> None:
        """Make ready.

        Args:
            work: carries out tasks together, and returns of each its result or what is wrong
                with it. Where it raises, its tasks are tried one by one.
            threads: how many batches are in work at once.
        """
        self._work = work
        self._queue: queue.SimpleQueue[_Waiting[Task, Result] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._serve, name=f"answers-{number}", daemon=True)
            for number in range(threads)
        ]
        self._mailboxes: dict[asyncio.AbstractEventLoop, _Mailbox] = {}
        self._started = False

    async def run(self, task: Task) -> Result:
        """Have a task carried out; return its result, or raise what is wrong with it."""
        loop = asyncio.get_running_loop()
        mailbox = self._mailboxes.get(loop) or self._begin(loop)
        future: asyncio.Future[Result] = loop.create_future()
        self._queue.put(_Waiting(task, future, mailbox))
        return await future

    async def close(self) -> None:
        """Let the threads end after what waits already."""
        if not self._started:
            return
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        mailbox = self._mailboxes.pop(asyncio.get_running_loop(), None)
        if mailbox is not None:
            mailbox.close()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> _Mailbox:
        mailbox = self._mailboxes[loop] = _Mailbox(loop)
        if not self._started:
            self._started = True
            for thread in self._threads:
                thread.start()
        return mailbox

    def _serve(self) -> None:
        while batch := self._next_batch():
            results = self._carry_out([waiting.task for waiting in batch])
            for waiting, result in zip(batch, results, strict=True):
                waiting.mailbox.put(waiting.future, result)
            for mailbox in {waiting.mailbox for waiting in batch}:
                mailbox.ring()

    def _next_batch(self) -> list[_Waiting[Task, Result]]:
        """Wait for a task; return it with those that wait behind it, nothing at the end."""
        first = self._queue.get()
        if first is None:
            return []
        batch = [first]
        with contextlib.suppress(queue.Empty):
            while len(batch) < _LARGEST_BATCH:
                waiting = self._queue.get_nowait()
                if waiting is None:
                    self._queue.put(None)
                    break
                batch.append(waiting)
        return batch

    def _carry_out(self, tasks: Sequence[Task]) -> Sequence[Result | Exception]:
        try:
            return self._work(tasks)
        except Exception as error:
            if len(tasks) == 1:
                return [error]
            return [result for task in tasks for result in self._carry_out([task])]


class _Mailbox:
    """Results on their way back to an event loop.

    `loop.call_soon_threadsafe` wakes the loop while it holds the interpreter's lock, so that the
    loop wakes up to wait for it. Writing to a pipe lets go of it first.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._results: deque[tuple[asyncio.Future[Any], object]] = deque()  # Any: of many tasks
        self._heard, self._bell = os.pipe()
        os.set_blocking(self._heard, False)
        os.set_blocking(self._bell, False)
        loop.add_reader(self._heard, self._deliver)

    def put(self, future: asyncio.Future[Any], result: object) -> None:
        """Put a result in; who rings has all of them delivered."""
        self._results.append((future, result))

    def ring(self) -> None:
        """Wake the loop."""
        with contextlib.suppress(OSError):  # the pipe is full of calls to wake up, or closed
            os.write(self._bell, b"!")

    def close(self) -> None:
        """Deliver what is there and let go of the loop."""
        self._deliver()
        self._loop.remove_reader(self._heard)
        os.close(self._heard)
        os.close(self._bell)

    def _deliver(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._heard, 4096)
        while self._results:
            _settle(*self._results.popleft())


def _settle(future: asyncio.Future[Any], result: object) -> None:
    if future.done():  # its client has gone
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
