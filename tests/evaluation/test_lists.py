"""Coverage, Gini index and novelty by hand and by their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from crossfeed.evaluation.lists import ListCounts, coverage, gini, information, list_figures
from crossfeed.evaluation.ranking import TopLists

COUNTS = arrays.arrays(np.int64, st.integers(1, 30), elements=st.integers(0, 50))


def counted(columns: list[int], *, items: int, shares: list[float] | None = None) -> ListCounts:
    counts = ListCounts.none(items)
    weights = np.array(shares or [1.0] * len(columns))
    counts.add(TopLists(np.zeros(len(columns), np.int64), np.array(columns), weights))
    return counts


def of(expected: np.ndarray) -> ListCounts:
    return ListCounts(expected.astype(float), np.where(expected > 0, -np.inf, 0.0))


def test_figures_by_hand() -> None:
    """Four items with 4, 2, 1 and 1 of 8 clicks; the first is shown three times, the next once."""
    counts = counted([0, 1, 0, 0], items=4)
    figures = list_figures(counts, information(np.array([4, 2, 1, 1])), 2)
    assert figures == {
        "coverage@2": pytest.approx(2 / 4),
        "gini@2": pytest.approx((-3 * 0 - 1 * 0 + 1 * 1 + 3 * 3) / (4 * 4)),
        "novelty@2": pytest.approx((3 * 1 + 1 * 2) / 4),
    }


def test_an_item_that_ties_for_a_place_is_covered_as_often_as_chance_has_it() -> None:
    """In each of two lists with probability 1/2: in at least one with 3/4."""
    counts = counted([0, 0], items=2, shares=[0.5, 0.5])
    assert coverage(counts) == pytest.approx(0.75 / 2)
    assert counts.expected.tolist() == [1, 0]


def test_one_item_for_all_is_the_most_unequal_and_all_alike_is_0() -> None:
    assert gini(of(np.array([0, 0, 0, 9]))) == pytest.approx(1 - 1 / 4)
    assert gini(of(np.array([5, 5, 5, 5]))) == 0


def test_without_recommendations_only_coverage_is_left() -> None:
    bits = information(np.array([3, 1]))
    assert list_figures(ListCounts.none(2), bits, 10) == {"coverage@10": 0}
    assert list_figures(ListCounts.none(0), bits[:0], 10) == {}


def test_domains_are_joined_as_one_catalogue() -> None:
    joined = ListCounts.joined([counted([0], items=1), counted([1], items=3)])
    assert coverage(joined) == pytest.approx(2 / 4)
    assert joined.expected.tolist() == [1, 0, 1, 0]


def test_batches_add_up() -> None:
    counts = counted([0, 1], items=3)
    counts.add(TopLists(np.array([0]), np.array([1]), np.array([1.0])))
    assert counts.expected.tolist() == [1, 2, 0]


def test_lists_without_items_cover_0_and_not_minus_0() -> None:
    assert math.copysign(1, coverage(ListCounts.none(3))) == 1


@given(COUNTS.filter(np.any))
def test_gini_is_the_mean_difference_and_knows_no_order(counts: np.ndarray) -> None:
    differences = np.abs(counts[:, None] - counts[None, :]).mean()
    assert gini(of(counts)) == pytest.approx(differences / (2 * counts.mean()), abs=1e-12)
    assert gini(of(counts[::-1])) == pytest.approx(gini(of(counts)), abs=1e-12)


@given(COUNTS)
def test_figures_are_in_range(counts: np.ndarray) -> None:
    clicks = counts + 1
    figures = list_figures(of(counts), information(clicks), 10)
    assert figures["coverage@10"] == pytest.approx((counts > 0).mean())
    assert 0 <= figures.get("gini@10", 0) < 1
    assert -1e-9 <= figures.get("novelty@10", 0) <= math.log2(clicks.sum()) + 1e-9
