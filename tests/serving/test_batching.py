"""What waits at the same time is one batch; nobody pays for what is wrong with another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from crossfeed.serving.engine.batching import BatchingThreads


class Gated:
    """Work that waits to be let go on, and notes what it was asked for."""

    def __init__(self) -> None:
        self.entered, self.gate = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def __call__(self, tasks: Sequence[int]) -> list[int | Exception]:
        self.batches.append(len(tasks))
        self.entered.set()
        assert self.gate.wait(30)
        if 13 in tasks:
            raise KeyError("the whole batch breaks")
        return [ValueError(f"{task} is odd") if task % 2 else task * 10 for task in tasks]


def answers(work: Gated, numbers: Sequence[int], *, threads: int = 1) -> list[object]:
    """Return what becomes of tasks that all wait behind the first one."""

    async def run() -> list[object]:
        batching = BatchingThreads(work, threads=threads)
        asked = [asyncio.ensure_future(batching.run(numbers[0]))]
        while not work.entered.is_set():
            await asyncio.sleep(0.001)
        asked += [asyncio.ensure_future(batching.run(number)) for number in numbers[1:]]
        await asyncio.sleep(0)  # all of them are queued
        work.gate.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        await batching.close()
        return list(found)

    return asyncio.run(run())


def test_who_waits_shares_the_next_batch() -> None:
    work = Gated()
    assert answers(work, range(0, 202, 2)) == [10 * number for number in range(0, 202, 2)]
    assert work.batches == [1, 64, 36]


def test_what_is_wrong_with_one_concerns_it_alone() -> None:
    work = Gated()
    found = answers(work, [0, 2, 3, 4])
    assert found[:2] == [0, 20] and found[3] == 40
    assert isinstance(found[2], ValueError) and str(found[2]) == "3 is odd"
    assert work.batches == [1, 3]


def test_one_that_breaks_its_batch_breaks_nobody_else() -> None:
    work = Gated()
    found = answers(work, [0, 2, 13, 4])
    assert found[:2] == [0, 20] and found[3] == 40
    assert isinstance(found[2], KeyError)
    assert work.batches == [1, 3, 1, 1, 1]


def test_a_task_whose_client_has_gone_is_let_go() -> None:
    work = Gated()

    async def run() -> int:
        batching = BatchingThreads(work, threads=1)
        gone = asyncio.ensure_future(batching.run(2))
        while not work.entered.is_set():
            await asyncio.sleep(0.001)
        gone.cancel()
        work.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await gone
        found = await batching.run(4)
        await batching.close()
        return found

    assert asyncio.run(run()) == 40


def test_closing_finishes_what_waits() -> None:
    work = Gated()

    async def run() -> list[int]:
        batching = BatchingThreads(work, threads=2)
        asked = [asyncio.ensure_future(batching.run(number)) for number in (2, 4, 6)]
        await asyncio.sleep(0)
        work.gate.set()
        await batching.close()
        return list(await asyncio.gather(*asked))

    assert asyncio.run(run()) == [20, 40, 60]
