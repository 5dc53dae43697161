"""A store that fails is left alone for a moment, and then tried by one caller at a time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from stores import click

from crossfeed.errors import HistoryStoreError
from crossfeed.serving.guarded_store import GuardedStore
from crossfeed.serving.history import Event
from crossfeed.serving.ids import Id
from crossfeed.serving.sqlite_store import SqliteHistoryStore


class Failing(SqliteHistoryStore):
    """A store whose reads fail on demand, and that counts them."""

    def __init__(self) -> None:
        super().__init__(None)
        self.fails, self.reads = True, 0

    def read(self, user_id: Id) -> Sequence[Event]:
        self.reads += 1
        if self.fails:
            raise HistoryStoreError("planted")
        return super().read(user_id)


class Watched:
    """A guarded store with its clock and what it told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.took: list[str] = []
        self.failed: list[tuple[str, str]] = []
        self.inner = Failing()
        self.store = GuardedStore(
            self.inner,
            took=lambda operation, seconds: self.took.append(operation),
            failed=lambda operation, error: self.failed.append((operation, error.message)),
            clock=lambda: self.now,
        )


def test_after_a_failure_callers_are_told_at_once_until_it_is_tried_again() -> None:
    watched = Watched()
    with pytest.raises(HistoryStoreError, match="planted"):
        watched.store.read("ann")
    for _ in range(3):
        with pytest.raises(HistoryStoreError, match="failed to read a moment ago"):
            watched.store.read("ann")
    assert watched.inner.reads == 1
    assert watched.failed == [("read", "planted")]
    watched.now = 0.6
    with pytest.raises(HistoryStoreError, match="planted"):
        watched.store.read("ann")
    watched.now, watched.inner.fails = 1.2, False
    assert watched.store.read("ann") == []
    assert watched.store.read("ann") == []
    assert watched.inner.reads == 4
    assert watched.took == ["read", "read"]
    watched.inner.close()


def test_one_operation_that_fails_leaves_the_others_alone() -> None:
    watched = Watched()
    with pytest.raises(HistoryStoreError, match="planted"):
        watched.store.read("ann")
    assert watched.store.append([click("e1")]) == (1, 0)
    assert watched.store.forget("ann") == 1
    assert watched.took == ["append", "forget"]
    watched.inner.close()


def test_while_one_caller_tries_again_the_others_are_still_told_at_once() -> None:
    watched = Watched()
    with pytest.raises(HistoryStoreError, match="planted"):
        watched.store.read("ann")
    watched.now = 0.6
    watched.store._enter("read")  # the caller that tries, and is not back yet
    with pytest.raises(HistoryStoreError, match="a moment ago"):
        watched.store.read("ann")
    watched.inner.close()
