"""Demand as of a time: what the formula says, and nothing that happens then or later."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import living_dataset

from crossfeed.data.dataset import Dataset, Part
from crossfeed.data.demand import FEATURES, HALF_LIVES, LEAST_LOG_SHARE, DemandHistory
from crossfeed.scorer import Doubles, Ints

HOUR = 3_600_000
ITEMS = 6

clicks = st.lists(st.tuples(st.integers(0, ITEMS - 1), st.integers(0, 50)), min_size=0, max_size=60)
"""Item and time in hours; many are at one time."""


def history(rows: list[tuple[int, int]]) -> DemandHistory:
    items, times = (np.array([row[side] for row in rows], np.int64) for side in (0, 1))
    return DemandHistory.of(items, times * HOUR, count=ITEMS)


def demand(rows: list[tuple[int, int]], hours: int) -> tuple[Doubles, Ints]:
    made = history(rows)
    return made.demand(np.arange(ITEMS), made.before(hours * HOUR))


def naive(rows: list[tuple[int, int]], hours: int) -> Doubles:
    """Return the features from their definition."""
    found = np.full((ITEMS, FEATURES), LEAST_LOG_SHARE)
    found[:, -2:] = 0
    earlier = [(item, time) for item, time in rows if time < hours]
    latest = max((time for _, time in earlier), default=0)
    for item in range(ITEMS):
        own = [time for other, time in earlier if other == item]
        if not own:
            continue
        for column, half_life in enumerate(HALF_LIVES):
            weights = [0.5 ** ((latest - time) * HOUR / half_life) for _, time in earlier]
            counted = sum(
                w for w, (other, _) in zip(weights, earlier, strict=True) if other == item
            )
            share = counted / sum(weights)
            found[item, column] = max(np.log(share), LEAST_LOG_SHARE) if share else LEAST_LOG_SHARE
        found[item, -3] = np.log(len(own) / len(earlier))
        found[item, -2:] = np.log1p(latest - min(own)), np.log1p(latest - max(own))
    return found


@given(rows=clicks, hours=st.integers(0, 60))
def test_features_are_their_definition(rows: list[tuple[int, int]], hours: int) -> None:
    found, counts = demand(rows, hours)
    np.testing.assert_allclose(found, naive(rows, hours), rtol=1e-9, atol=1e-9)
    expected = np.bincount([item for item, time in rows if time < hours], minlength=ITEMS)
    assert counts.tolist() == expected.tolist()


@given(rows=clicks, later=clicks, hours=st.integers(0, 60))
def test_clicks_at_the_time_or_later_change_nothing(
    rows: list[tuple[int, int]], later: list[tuple[int, int]], hours: int
) -> None:
    more = rows + [(item, hours + time) for item, time in later]
    np.testing.assert_array_equal(demand(more, hours)[0], demand(rows, hours)[0])


@given(rows=clicks, hours=st.integers(0, 60), pause=st.integers(0, 10_000))
def test_growing_traffic_and_pauses_change_no_share(
    rows: list[tuple[int, int]], hours: int, pause: int
) -> None:
    once, twice = demand(rows, hours)[0], demand(rows + rows, hours)[0]
    np.testing.assert_allclose(twice, once, atol=1e-9)
    whole = demand(rows, 60)[0]
    np.testing.assert_array_equal(demand(rows, 60 + pause)[0], whole)


def test_an_hour_halves_the_shortest_half_life_and_hardly_the_longest() -> None:
    found, _ = demand([(0, 0), (1, 1)], 2)
    np.testing.assert_allclose(np.exp(found[:2, 0]), [1 / 3, 2 / 3])
    np.testing.assert_allclose(np.exp(found[:2, 8]), [0.5, 0.5], atol=1e-4)
    np.testing.assert_allclose(np.exp(found[:2, 9]), [0.5, 0.5])
    np.testing.assert_allclose(found[:2, 10:], [[np.log(2)] * 2, [0, 0]])


def test_a_domain_without_clicks_has_no_demand() -> None:
    found, counts = demand([], 5)
    assert (found[:, :-2] == LEAST_LOG_SHARE).all()
    assert not found[:, -2:].any()
    assert not counts.any()


def test_several_times_are_asked_at_once() -> None:
    rows = [(n % 4, n) for n in range(20)]
    made = history(rows)
    before = made.before(np.array([0, 7, 20]) * HOUR)
    found, counts = made.demand(np.arange(ITEMS)[None], before[:, None])
    for place, hours in enumerate((0, 7, 20)):
        np.testing.assert_array_equal(found[place], demand(rows, hours)[0])
        np.testing.assert_array_equal(counts[place], demand(rows, hours)[1])


@pytest.mark.parametrize("part", [Part.TRAIN, Part.VALIDATION, Part.TEST])
def test_a_moment_counts_what_may_be_seen_in_its_part(part: Part, last_out: Dataset) -> None:
    hidden = {
        Part.TRAIN: {Part.VALIDATION, Part.TEST},
        Part.VALIDATION: {Part.TEST},
        Part.TEST: set[Part](),
    }[part]
    seen = ~np.isin(last_out.event_part, list(hidden))
    time = int(np.median(last_out.event_time))
    for domain in range(3):
        pool = last_out.catalogue.pool(domain)
        own = seen & (last_out.event_domain == domain) & (last_out.event_time < time)
        counts = np.bincount(last_out.event_item[own] - pool.start, minlength=20)
        moment = last_out.moment(time, part)
        assert moment.exists(domain).tolist() == (counts > 0).tolist()
        np.testing.assert_allclose(
            np.exp(moment.demand(domain)[counts > 0, 9]), counts[counts > 0] / counts.sum()
        )
    end = last_out.end(part)
    assert end.time == last_out.event_time[seen].max() + 1


def test_the_first_clicks_of_a_domain_are_no_targets() -> None:
    dataset = living_dataset()
    learned = dataset.learned_events
    assert (np.diff(learned) > 0).all()
    for domain in range(3):
        own = np.flatnonzero(dataset.event_domain == domain)
        times = np.sort(dataset.event_time[own])
        kept = learned[dataset.event_domain[learned] == domain]
        assert len(kept) == len(own) - -(-len(own) // 20)
        assert dataset.event_time[kept].min() >= times[len(own) - len(kept)]
