"""Metrics on random scores against scikit-learn, ties and users of one class included."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import (
    label_ranking_average_precision_score,
    log_loss,
    ndcg_score,
    roc_auc_score,
    top_k_accuracy_score,
)

from crossfeed.evaluation.figures import mean_figures
from crossfeed.evaluation.metrics import metrics_at
from crossfeed.evaluation.ranking import Block, Seen, negative_log_likelihood, rank
from crossfeed.scorer import Histories

ROWS, ITEMS = 60, 25


@pytest.fixture(params=[3, 10_000], ids=["many ties", "no ties"])
def scores(request: pytest.FixtureRequest) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    if request.param == 3:
        return rng.integers(0, 3, (ROWS, ITEMS)).astype(np.float32)
    return rng.permuted(np.tile(np.arange(ITEMS, dtype=np.float32), (ROWS, 1)), axis=1) / 5


TARGETS = np.random.default_rng(1).integers(0, ITEMS, ROWS)
ONE_HOT = np.eye(ITEMS)[TARGETS]


def ours(scores: NDArray[np.float32], k: int = 5) -> dict[str, NDArray[np.float64]]:
    nothing = Seen(np.zeros(0, np.int64), np.zeros(0, np.int64))
    block = Block.of(scores, TARGETS, nothing)
    values = {name: metric(rank(block)) for name, metric in metrics_at(k).items()}
    return {**values, "nll": negative_log_likelihood(block)}


@pytest.mark.parametrize("k", [1, 5, 10, 40])
def test_ndcg(scores: NDArray[np.float32], k: int) -> None:
    expected = [
        ndcg_score(ONE_HOT[None, row], scores[None, row].astype(float), k=k) for row in range(ROWS)
    ]
    np.testing.assert_allclose(ours(scores, k)[f"ndcg@{k}"], expected)


def test_auc(scores: NDArray[np.float32]) -> None:
    expected = [roc_auc_score(ONE_HOT[row], scores[row]) for row in range(ROWS)]
    np.testing.assert_allclose(ours(scores)["auc"], expected)


def test_the_likelihood(scores: NDArray[np.float32]) -> None:
    odds = np.exp(scores.astype(float))
    expected = log_loss(TARGETS, odds / odds.sum(axis=1, keepdims=True), labels=np.arange(ITEMS))
    assert ours(scores)["nll"].mean() == pytest.approx(expected, rel=1e-6)


def test_the_likelihood_without_what_was_seen(scores: NDArray[np.float32]) -> None:
    rows = np.random.default_rng(2).integers(0, ITEMS, (ROWS, 4))
    seen = Seen.of(Histories.of([row[row != TARGETS[at]] for at, row in enumerate(rows)]), _POOL)
    odds = np.exp(scores.astype(float))
    odds[seen.rows, seen.columns] = 0
    expected = log_loss(TARGETS, odds / odds.sum(axis=1, keepdims=True), labels=np.arange(ITEMS))
    found = negative_log_likelihood(Block.of(scores, TARGETS, seen)).mean()
    assert found == pytest.approx(expected, rel=1e-6)


_POOL = slice(0, ITEMS)


@pytest.mark.parametrize("scores", [10_000], indirect=True, ids=["no ties"])
def test_hits_and_precision_where_no_scores_tie(scores: NDArray[np.float32]) -> None:
    """How scikit-learn breaks ties here depends on the order of the items, or on the worst case."""
    found = ours(scores)
    hits = top_k_accuracy_score(TARGETS, scores, k=5, labels=np.arange(ITEMS))
    assert found["hit@5"].mean() == found["recall@5"].mean() == pytest.approx(hits)
    precision = label_ranking_average_precision_score(ONE_HOT, scores)
    assert found["mrr"].mean() == pytest.approx(precision)
    inside = found["mrr"] >= 1 / 5
    np.testing.assert_allclose(found["map@5"], np.where(inside, found["mrr"], 0))
    np.testing.assert_array_equal(found["mrr@5"], found["map@5"])


def test_gauc(scores: NDArray[np.float32]) -> None:
    users = np.random.default_rng(3).integers(0, 7, ROWS)
    each = np.array([roc_auc_score(ONE_HOT[row], scores[row]) for row in range(ROWS)])
    expected = np.mean([each[users == user].mean() for user in np.unique(users)])
    assert mean_figures(ours(scores), users)["gauc"] == pytest.approx(expected)


def test_a_user_of_one_class_is_chance_and_no_hole_in_the_mean() -> None:
    """Of two users, one meets a pool of nothing but the click: there is no pair to order."""
    nothing = Seen(np.zeros(0, np.int64), np.zeros(0, np.int64))
    alone = rank(Block.of(np.array([[0.3]], np.float32), np.array([0]), nothing))
    other = rank(Block.of(np.array([[0.3, 0.1]], np.float32), np.array([0]), nothing))
    values = {"auc": np.concatenate([metrics_at(1)["auc"](each) for each in (alone, other)])}
    assert mean_figures(values, np.array([0, 1]))["gauc"] == pytest.approx((0.5 + 1) / 2)
