"""Micro-batching: requests that wait at the same time are answered together, by one thread.

Nobody waits for others to come: a request that finds a thread idle is taken alone at once, and what
comes while all are busy forms the next batch. A batch shares one pass of the encoder, one hop from
the event loop to a thread and one back.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["BatchingThreads"]

Task = TypeVar("Task")
Result = TypeVar("Result")

_LARGEST_BATCH = 64
"""Tasks that are taken at once: it bounds how long the first of them waits for the others."""


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Task, Result]):
    task: Task
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Result]


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
        self._started = False

    async def run(self, task: Task) -> Result:
        """Have a task carried out; return its result, or raise what is wrong with it."""
        if not self._started:
            self._started = True
            for thread in self._threads:
                thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._queue.put(_Waiting(task, loop, future))
        return await future

    def close(self) -> None:
        """Let the threads end after what waits already."""
        if self._started:
            for _ in self._threads:
                self._queue.put(None)
            for thread in self._threads:
                thread.join()

    def _serve(self) -> None:
        while batch := self._next_batch():
            results = self._carry_out([waiting.task for waiting in batch])
            for waiting, result in zip(batch, results, strict=True):
                with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                    waiting.loop.call_soon_threadsafe(_settle, waiting.future, result)

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


def _settle(future: asyncio.Future[Result], result: Result | Exception) -> None:
    if future.done():  # its client has gone
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
