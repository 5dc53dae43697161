"""Metrics against values computed by hand, ties and misses included."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfeed.evaluation.metrics import auc, gauc, metrics_at, ndcg, recall, reciprocal_rank
from crossfeed.evaluation.ranking import Ranks


def ranks(above: int, tied: int = 1, pool: int = 100) -> Ranks:
    return Ranks(np.array([above]), np.array([tied]), np.array([pool]))


@st.composite
def some_ranks(draw: st.DrawFn) -> Ranks:
    pool = draw(st.integers(1, 40))
    above = draw(st.integers(0, pool - 1))
    return ranks(above, draw(st.integers(1, pool - above)), pool)


def test_metrics_by_hand() -> None:
    third = ranks(above=2, pool=4)
    assert ndcg(third, 10).item() == pytest.approx(1 / math.log2(4))
    assert ndcg(third, 2).item() == 0
    assert recall(third, 3).item() == 1
    assert recall(third, 2).item() == 0
    assert reciprocal_rank(third, 10).item() == pytest.approx(1 / 3)
    assert reciprocal_rank(third, 2).item() == 0
    assert reciprocal_rank(third).item() == pytest.approx(1 / 3)
    assert auc(third).item() == pytest.approx(1 / 3)


def test_the_reciprocal_rank_without_a_cutoff_reaches_the_last_place() -> None:
    assert reciprocal_rank(ranks(above=99_999, pool=100_000)).item() == pytest.approx(1e-5)


def test_ties_earn_what_a_random_order_earns_on_average() -> None:
    found = ranks(above=1, tied=3, pool=4)  # places 2, 3 and 4
    expected = np.mean([1 / math.log2(1 + place) for place in (2, 3, 4)])
    assert ndcg(found, 10).item() == pytest.approx(expected)
    assert recall(found, 2).item() == pytest.approx(1 / 3)
    assert auc(found).item() == pytest.approx(1 / 3)


def test_constant_scores_earn_chance() -> None:
    found = ranks(above=0, tied=100, pool=100)
    assert recall(found, 10).item() == pytest.approx(0.1)
    assert reciprocal_rank(found).item() == pytest.approx(np.mean(1 / np.arange(1, 101)))
    assert auc(found).item() == pytest.approx(0.5)


@pytest.mark.parametrize("pool", [0, 1, 2, 100])
@pytest.mark.parametrize("name", sorted(metrics_at(3)))
def test_a_miss_earns_nothing_however_small_the_pool(name: str, pool: int) -> None:
    assert metrics_at(3)[name](ranks(above=pool, pool=pool)).item() == 0


def test_auc_of_a_pool_of_one_is_chance() -> None:
    assert auc(ranks(above=0, pool=1)).item() == 0.5


def test_names_follow_the_cutoff() -> None:
    ranking = {"ndcg@5", "recall@5", "hit@5", "mrr@5", "map@5"}
    assert set(metrics_at(5)) == {*ranking, "mrr", "auc"}
    fifth, sixth = ranks(above=4), ranks(above=5)
    assert all(metrics_at(5)[name](fifth).item() > 0 for name in ranking)
    assert all(metrics_at(5)[name](sixth).item() == 0 for name in ranking)


def test_gauc_counts_each_pair_once() -> None:
    """Three events of one user, all at 1, weigh no more than the single event of another at 0."""
    values, users = np.array([1.0, 1.0, 0.0, 1.0]), np.array([7, 7, 3, 7])
    assert gauc(values, users) == pytest.approx(0.5)
    assert values.mean() == 0.75


@given(some_ranks(), st.integers(1, 50), st.data())
def test_expected_metrics_are_the_mean_over_all_orders_of_the_ties(
    found: Ranks, k: int, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(metrics_at(k))))
    metric = metrics_at(k)[name]
    above, tied, pool = found.above.item(), found.tied.item(), found.pool.item()
    orders = [metric(ranks(place, 1, pool)).item() for place in range(above, above + tied)]
    assert metric(found).item() == pytest.approx(np.mean(orders))


@given(some_ranks(), st.integers(1, 50))
def test_metrics_are_between_0_and_1_and_a_better_rank_is_never_worse(found: Ranks, k: int) -> None:
    for metric in metrics_at(k).values():
        value = metric(found).item()
        assert 0 <= value <= 1 + 1e-12
        if found.above.item():
            better = ranks(found.above.item() - 1, found.tied.item(), found.pool.item())
            assert metric(better).item() >= value - 1e-12
