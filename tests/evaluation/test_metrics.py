"""Ranks and metrics against values computed by hand, ties and misses included."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfeed.evaluation.metrics import METRICS, Ranks, auc, ndcg, ranks, recall, reciprocal_rank


def rank_of(scores: list[float], target: int, excluded: tuple[int, ...] = ()) -> Ranks:
    mask = np.zeros((1, len(scores)), dtype=np.bool_)
    mask[0, list(excluded)] = True
    return ranks(np.array([scores], np.float32), np.array([target]), mask)


def test_metrics_by_hand() -> None:
    found = rank_of([0.9, 0.1, 0.5, 0.7], 2)  # third of four
    assert found == Ranks(above=np.array([2]), tied=np.array([1]), pool=np.array([4]))
    assert ndcg(found, 10).item() == pytest.approx(1 / math.log2(4))
    assert ndcg(found, 2).item() == 0
    assert recall(found, 3).item() == 1
    assert recall(found, 2).item() == 0
    assert reciprocal_rank(found, 10).item() == pytest.approx(1 / 3)
    assert auc(found, 0).item() == pytest.approx(1 / 3)


def test_excluded_items_do_not_rank_but_the_target_does() -> None:
    found = rank_of([0.9, 0.1, 0.5, 0.7], 2, excluded=(0, 2))
    assert found.above.item() == 1
    assert found.pool.item() == 3


def test_ties_earn_what_a_random_order_earns_on_average() -> None:
    found = rank_of([0.5, 0.5, 0.9, 0.5], 0)  # places 2, 3 and 4
    expected = np.mean([1 / math.log2(1 + place) for place in (2, 3, 4)])
    assert ndcg(found, 10).item() == pytest.approx(expected)
    assert recall(found, 2).item() == pytest.approx(1 / 3)
    assert auc(found, 0).item() == pytest.approx(1 / 3)


def test_constant_scores_earn_chance() -> None:
    found = rank_of([1.0] * 100, 17)
    assert recall(found, 10).item() == pytest.approx(0.1)
    assert auc(found, 0).item() == pytest.approx(0.5)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_an_item_outside_the_pool_is_a_miss(name: str) -> None:
    found = rank_of([0.5, 0.4, 0.3], -1)
    metric, k = METRICS[name]
    assert found.above.item() == 3
    assert metric(found, min(k, 3)).item() == 0


def test_nan_scores_rank_last() -> None:
    assert rank_of([0.1, math.nan, 0.2], 1).above.item() == 2
    assert rank_of([0.1, math.nan, 0.2], 0).above.item() == 1


def test_auc_of_a_pool_of_one_is_chance() -> None:
    assert auc(rank_of([0.3], 0), 0).item() == 0.5


@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=12),
    st.data(),
)
def test_expected_metrics_match_all_orders_of_the_ties(
    values: list[int], data: st.DataObject
) -> None:
    """The closed form is the mean over every place that the target can take among its ties."""
    target = data.draw(st.integers(0, len(values) - 1))
    found = rank_of([float(value) for value in values], target)
    above = sum(value > values[target] for value in values)
    tied = values.count(values[target])
    places = range(above + 1, above + tied + 1)
    gains = [1 / math.log2(1 + place) if place <= 3 else 0.0 for place in places]
    assert ndcg(found, 3).item() == pytest.approx(np.mean(gains))
    pairs = [(values[target] > v) + 0.5 * (values[target] == v) for v in values]
    assert auc(found, 0).item() == pytest.approx((sum(pairs) - 0.5) / (len(values) - 1))
