"""Shards of users, balanced by their events, and chunks of events by their histories."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import toy_dataset

from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import ConfigError


def sized_log(sizes: list[int]) -> pd.DataFrame:
    """Return a log of users that have so many clicks each."""
    users = [f"u{number:03}" for number, size in enumerate(sizes) for _ in range(size)]
    items = [f"i{number:03}" for size in sizes for number in range(size)]
    times = 1_600_000_000 + 60 * np.arange(len(users))
    return pd.DataFrame({"user_id": users, "item_id": items, "domain": "d", "timestamp": times})


@pytest.fixture
def sized(prepared: Callable[..., Dataset]) -> Dataset:
    return prepared(sized_log([3, 3, 20, 3, 4, 5, 3, 3]), split="last-out")


def test_shards_by_hand(sized: Dataset) -> None:
    assert sized.user_offsets.tolist() == [0, 3, 6, 26, 29, 33, 38, 41, 44]
    assert [sized.user_shard(index, 2) for index in range(2)] == [(0, 3), (3, 8)]  # 26 + 18
    assert [sized.user_shard(index, 4) for index in range(4)] == [(0, 2), (2, 3), (3, 5), (5, 8)]
    assert sized.user_shard(0, 1) == (0, 8)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 9, 44, 1000])
def test_shards_cover_every_user_once_and_are_balanced(count: int, sized: Dataset) -> None:
    shards = [sized.user_shard(index, count) for index in range(count)]
    covered = [user for first, last in shards for user in range(first, last)]
    assert covered == list(range(sized.users))
    held = [int(sized.user_offsets[last] - sized.user_offsets[first]) for first, last in shards]
    largest = int(np.diff(sized.user_offsets).max())
    assert all(abs(events - 44 / count) <= largest for events in held)


def test_many_small_users_are_balanced_closely(prepared: Callable[..., Dataset]) -> None:
    dataset = prepared(sized_log([3, 4, 5, 6] * 50), split="last-out")
    shards = [dataset.user_shard(index, 7) for index in range(7)]
    held = [dataset.user_offsets[last] - dataset.user_offsets[first] for first, last in shards]
    assert max(held) - min(held) <= 2 * 6


@given(sizes=st.lists(st.integers(0, 2**40), max_size=20), count=st.integers(1, 30))
def test_any_sizes_are_covered(sizes: list[int], count: int) -> None:
    dataset = object.__new__(Dataset)
    object.__setattr__(dataset, "user_offsets", np.concatenate([[0], np.cumsum(sizes, dtype="i8")]))
    borders = [dataset.user_shard(index, count) for index in range(count)]
    assert borders[0][0] == 0 and borders[-1][1] == len(sizes)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(borders))


@pytest.mark.parametrize(("index", "count"), [(-1, 2), (2, 2), (0, 0), (0, -1)])
def test_there_is_no_other_shard(index: int, count: int, sized: Dataset) -> None:
    with pytest.raises(ConfigError, match=f"there is no shard {index} of {count}"):
        sized.user_shard(index, count)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.integers(1, 30),
    st.integers(0, 3),
    st.data(),
)
def test_chunks_cover_all_events_and_cost_no_more_than_asked(
    sizes: list[int], at_once: int, of_event: int, data: st.DataObject
) -> None:
    clicks = [(user, "a", 0, Part.TRAIN) for user, size in enumerate(sizes) for _ in range(size)]
    chosen = st.lists(st.integers(0, len(clicks) - 1), unique=True)
    events = np.array(sorted(data.draw(chosen)), np.int64)
    dataset = toy_dataset({"a": [1]}, clicks)
    chunks = list(dataset.chunks(events, at_once=at_once, of_event=of_event, of_click=2))
    assert [place for first, last in chunks for place in range(first, last)] == list(
        range(len(events))
    )
    before = np.concatenate([np.arange(size) for size in sizes])
    for first, last in chunks:
        costs = of_event + 2 * before[events[first:last]]
        assert costs[1:].sum() <= at_once
