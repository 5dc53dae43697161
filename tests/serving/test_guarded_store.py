"""A store that fails is left alone for a moment, and then tried once at a time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence

import pytest
from stores import click

from crossfeed.errors import HistoryStoreError
from crossfeed.serving.histories.guarded_store import GuardedStore
from crossfeed.serving.histories.history import Event
from crossfeed.serving.histories.sqlite.store import SqliteHistoryStore
from crossfeed.serving.ids import Id


class Failing(SqliteHistoryStore):
    """A store whose reads fail on demand, and that counts them."""

    def __init__(self) -> None:
        super().__init__(None)
        self.fails, self.reads = True, 0
        self.hangs: threading.Event | None = None

    def read_many(
        self, user_ids: Sequence[Id], *, limit: int | None = None
    ) -> list[Sequence[Event]]:
        self.reads += 1
        if self.hangs is not None:
            assert self.hangs.wait(30)
        if self.fails:
            raise HistoryStoreError("planted")
        return super().read_many(user_ids, limit=limit)


def until(holds: Callable[[], bool]) -> None:
    for _ in range(2_000):
        if holds():
            return
        time.sleep(0.005)
    raise AssertionError("it does not come to hold")


class Watched:
    """A guarded store with its clock and what it told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.took: list[str] = []
        self.failed: list[tuple[str, str]] = []
        self.inner = Failing()
        self.store = GuardedStore(
            lambda: self.inner,
            took=lambda operation, seconds: self.took.append(operation),
            failed=lambda operation, error: self.failed.append((operation, error.message)),
            clock=lambda: self.now,
        )


def test_after_a_failure_callers_are_told_at_once_until_it_is_tried_again() -> None:
    watched = Watched()
    with pytest.raises(HistoryStoreError, match="planted"):
        watched.store.read_many(["ann"])
    for _ in range(3):
        with pytest.raises(HistoryStoreError, match="failed to read a moment ago"):
            watched.store.read_many(["ann"])
    assert watched.inner.reads == 1
    assert watched.failed == [("read", "planted")]
    watched.now = 0.6
    for _ in range(3):  # one trial goes on beside them
        with pytest.raises(HistoryStoreError, match="failed to read a moment ago"):
            watched.store.read_many(["ann"])
    until(lambda: watched.failed == [("read", "planted")] * 2)
    watched.now, watched.inner.fails = 1.2, False
    with pytest.raises(HistoryStoreError, match="failed to read a moment ago"):
        watched.store.read_many(["ann"])
    until(lambda: watched.took == ["read"])
    assert watched.store.read_many(["ann"])[0] == []
    assert watched.inner.reads == 4
    assert watched.took == ["read", "read"]
    watched.inner.close()


def test_one_operation_that_fails_leaves_the_others_alone() -> None:
    watched = Watched()
    with pytest.raises(HistoryStoreError, match="planted"):
        watched.store.read_many(["ann"])
    assert watched.store.append([click("e1")]) == (1, 0)
    assert watched.store.forget("ann") == 1
    assert watched.took == ["append", "forget"]
    watched.inner.close()


def test_a_trial_of_a_store_that_hangs_holds_up_nobody() -> None:
    watched = Watched()
    with pytest.raises(HistoryStoreError, match="planted"):
        watched.store.read_many(["ann"])
    watched.now, watched.inner.hangs = 0.6, threading.Event()
    for _ in range(10):
        with pytest.raises(HistoryStoreError, match="a moment ago"):
            watched.store.read_many(["ann"])
    until(lambda: watched.inner.reads == 2)
    watched.inner.fails = False
    watched.inner.hangs.set()
    until(lambda: watched.took == ["read"])
    assert watched.store.read_many(["ann"])[0] == []
    watched.inner.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ((SqliteHistoryStore, "read_many"), ValueError("planted")),
        ((threading.Thread, "start"), RuntimeError("can't start new thread")),
    ],
    ids=["read", "thread"],
)
def test_a_trial_that_meets_an_unforeseen_error_is_not_the_last(
    broken: tuple[type, str], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, met = Watched(), threading.Event()

    def fail(*_: object, **__: object) -> None:
        met.set()
        raise error

    def answers() -> bool:
        with contextlib.suppress(HistoryStoreError):
            return watched.store.read_many(["ann"])[0] == []
        return False

    with pytest.raises(HistoryStoreError, match="planted"):
        watched.store.read_many(["ann"])
    watched.now, watched.inner.fails = 0.6, False
    with monkeypatch.context() as patch:
        patch.setattr(*broken, fail)
        with pytest.raises(HistoryStoreError, match="a moment ago"):
            watched.store.read_many(["ann"])
        assert met.wait(30)
    until(answers)
    watched.inner.close()


def test_a_write_is_tried_by_one_caller_whose_events_it_is() -> None:
    watched = Watched()
    inner, error = watched.inner, HistoryStoreError("full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inner, "append", lambda events: (_ for _ in ()).throw(error))
        with pytest.raises(HistoryStoreError, match="full"):
            watched.store.append([click("e1")])
    with pytest.raises(HistoryStoreError, match="failed to append a moment ago"):
        watched.store.append([click("e1")])
    watched.now = 0.6
    assert watched.store.append([click("e1")]) == (1, 0)
    assert watched.took == ["append"]
    inner.close()


def test_a_store_that_cannot_be_opened_is_tried_again() -> None:
    opened: list[SqliteHistoryStore] = []

    def open_store() -> SqliteHistoryStore:
        if now[0] < 1.0:
            raise HistoryStoreError("cannot be opened")
        opened.append(SqliteHistoryStore(None))
        return opened[-1]

    now = [0.0]
    store = GuardedStore(
        open_store, took=lambda *_: None, failed=lambda *_: None, clock=lambda: now[0]
    )
    with pytest.raises(HistoryStoreError, match="cannot be opened"):
        store.append([click("e1")])
    now[0] = 1.0
    assert store.append([click("e1")]) == (1, 0)
    assert [len(events) for events in store.read_many(["ann"])] == [1]
    store.close()
    with pytest.raises(HistoryStoreError, match="closed"):
        opened[0].ping()
    assert len(opened) == 1
