"""Windows of time: every click once, and the moment is the time of the first one."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import living_dataset, toy_dataset

from crossfeed.data.dataset import Dataset, Part
from crossfeed.data.dataset.windows import Windows, windows_of


def dataset_of(*times: int, domains: int = 1) -> Dataset:
    """Return a log of one click per user on one item, at these times; domains take turns."""
    names = [f"d{number}" for number in range(domains)]
    clicks = [(user, names[user % domains], 0, Part.TRAIN) for user in range(len(times))]
    dataset = toy_dataset({name: [1] for name in names}, clicks)
    return dataclasses.replace(dataset, event_time=np.array(times, np.int64))


class Phases(np.random.Generator):
    """A source whose phases are chosen by the test."""

    def __init__(self, *phases: int) -> None:
        super().__init__(np.random.PCG64(0))
        self.phases, self.sizes = np.array(phases), np.zeros(0, np.int64)

    def integers(self, high: np.ndarray) -> np.ndarray:  # type: ignore[override]
        self.sizes = high
        return self.phases


def parts(windows: Windows) -> list[list[int]]:
    return [windows.events[i:j].tolist() for i, j in pairwise(windows.offsets.tolist())]


def test_windows_by_hand() -> None:
    """Ten clicks in windows of at most four; the phase shortens the first window by one."""
    times = [50, 10, 90, 20, 80, 30, 70, 40, 60, 100]
    dataset = dataset_of(*times)
    found = windows_of(dataset, np.arange(10), rng=Phases(1), most=4)
    assert parts(found) == [[1, 3, 5], [7, 0, 8, 6], [4, 2, 9]]
    assert found.times.tolist() == [10, 40, 80]
    assert found.domains.tolist() == [0, 0, 0]
    assert len(found) == 3


def test_each_domain_has_windows_and_a_phase_of_its_own() -> None:
    times = [*range(100, 120)]
    dataset = dataset_of(*times, domains=2)
    found = windows_of(dataset, np.arange(20), rng=Phases(0, 2), most=5)
    assert parts(found) == [
        [0, 2, 4, 6, 8],
        [10, 12, 14, 16, 18],
        [1, 3, 5],
        [7, 9, 11, 13, 15],
        [17, 19],
    ]
    assert found.domains.tolist() == [0, 0, 1, 1, 1]
    assert found.times.tolist() == [100, 110, 101, 107, 117]


@pytest.mark.parametrize(
    ("clicks", "most", "size"),
    [(40, 64, 8), (640, 64, 10), (10_000, 64, 64), (10_000, 20, 20), (40, 3, 3), (40, 1, 1)],
)
def test_sizes_grow_with_the_clicks_of_a_domain(clicks: int, most: int, size: int) -> None:
    source = Phases(0)
    found = windows_of(dataset_of(*range(clicks)), np.arange(clicks), rng=source, most=most)
    assert source.sizes.tolist() == [size]
    sizes = np.diff(found.offsets)
    assert (sizes[:-1] == size).all() and 0 < sizes[-1] <= size


def test_phases_are_drawn() -> None:
    dataset = dataset_of(*range(100))
    firsts = {
        int(windows_of(dataset, np.arange(100), rng=np.random.default_rng(seed)).offsets[1])
        for seed in range(60)
    }
    assert firsts == set(range(1, 9))


def test_clicks_at_one_time_may_lie_on_both_sides_and_know_nothing_of_each_other() -> None:
    dataset = dataset_of(1, 2, 2, 2, 2, 3)
    found = windows_of(dataset, np.arange(6), rng=Phases(0), most=3)
    assert parts(found) == [[0, 1, 2], [3, 4, 5]]
    assert found.times.tolist() == [1, 2]
    history = dataset.demand_history(0, Part.TRAIN)
    assert history.before(found.times).tolist() == [0, 1]  # of the four at 2, none is before


@given(st.integers(0, 10_000), st.integers(1, 70))
def test_every_click_is_in_one_window_in_time_order(seed: int, most: int) -> None:
    dataset = living_dataset(clicks=300, seed=seed % 7)
    events = np.flatnonzero(np.random.default_rng(seed).random(300) < 0.8)
    found = windows_of(dataset, events, rng=np.random.default_rng(seed), most=most)
    assert np.array_equal(np.sort(found.events), events)
    assert found.offsets[0] == 0 and found.offsets[-1] == len(events)
    for place, window in enumerate(parts(found)):
        times = dataset.event_time[window]
        assert 0 < len(window) <= most
        assert (np.diff(times) >= 0).all() and times[0] == found.times[place]
        assert set(dataset.event_domain[window]) == {found.domains[place]}
