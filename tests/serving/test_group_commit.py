"""The writer's thread: what waits together is committed together, and fails alone."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from crossfeed.errors import HistoryStoreError
from crossfeed.serving.histories.group_commit import GroupCommit


@pytest.fixture
def connection() -> sqlite3.Connection:
    opened = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    opened.execute("CREATE TABLE numbers (number UNIQUE)")
    return opened


def as_one_group(writer: GroupCommit, calls: list[Callable[[], object]]) -> list[Future[object]]:
    """Make the calls while the writer is held, so that they wait together."""
    started, go = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> None:
        started.set()
        assert go.wait(10)

    with ThreadPoolExecutor(len(calls) + 1) as pool:
        pool.submit(writer.run, hold)
        assert started.wait(10)
        futures = [pool.submit(call) for call in calls]
        while writer._tasks.qsize() < len(calls):
            time.sleep(0.001)
        go.set()
    return futures


def test_writers_that_wait_share_a_transaction(connection: sqlite3.Connection) -> None:
    commits: list[str] = []
    connection.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    writer = GroupCommit(connection)
    futures = as_one_group(writer, [lambda n=n: writer.run(lambda _: n) for n in range(8)])
    assert [future.result() for future in futures] == list(range(8))
    writer.close()
    assert len(commits) == 2  # that of the task which held the writer, and theirs


def test_one_bad_write_leaves_those_beside_it_alone(connection: sqlite3.Connection) -> None:
    writer = GroupCommit(connection)

    def insert(*numbers: int) -> object:
        rows = [(number,) for number in numbers]
        return writer.run(lambda c: c.executemany("INSERT INTO numbers VALUES (?)", rows).rowcount)

    good, bad, other = as_one_group(
        writer, [lambda: insert(1, 2), lambda: insert(3, 3), lambda: insert(4, 5)]
    )
    assert (good.result(), other.result()) == (2, 2)
    with pytest.raises(sqlite3.IntegrityError):
        bad.result()
    kept = writer.run(lambda c: c.execute("SELECT number FROM numbers ORDER BY number").fetchall())
    assert kept == [(1,), (2,), (4,), (5,)]
    writer.close()


def test_what_follows_a_transaction_is_shared(connection: sqlite3.Connection) -> None:
    writer = GroupCommit(connection)
    inside: list[bool] = []

    def follow(connection: sqlite3.Connection) -> None:
        inside.append(connection.in_transaction)

    calls = [lambda n=n: writer.run(lambda _: n, then=follow) for n in range(4)]
    assert [future.result() for future in as_one_group(writer, calls)] == [0, 1, 2, 3]
    assert inside == [False]
    writer.close()


def test_what_follows_fails_for_those_alone_who_asked_for_it(
    connection: sqlite3.Connection,
) -> None:
    writer = GroupCommit(connection)

    def fail(_: sqlite3.Connection) -> None:
        raise ValueError("planted")

    failing, other = as_one_group(
        writer, [lambda: writer.run(lambda _: 1, then=fail), lambda: writer.run(lambda _: 2)]
    )
    assert other.result() == 2
    with pytest.raises(ValueError, match="planted"):
        failing.result()
    writer.close()


def test_after_closing_nothing_is_taken(connection: sqlite3.Connection) -> None:
    writer = GroupCommit(connection)
    [queued] = as_one_group(writer, [lambda: writer.run(lambda _: 1)])
    writer.close()
    writer.close()
    assert queued.result() == 1
    with pytest.raises(HistoryStoreError, match="is closed"):
        writer.run(lambda _: 2)
