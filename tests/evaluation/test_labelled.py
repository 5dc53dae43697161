"""Metrics of labelled impressions: by hand, and against scikit-learn on random data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss, roc_auc_score

from crossfeed.evaluation.labelled import auc, calibration, gauc, logloss


def test_logloss_by_hand() -> None:
    assert logloss([1, 0], [0.5, 0.75]) == pytest.approx((np.log(2) + np.log(4)) / 2)
    assert logloss([1, 0], [1.0, 0.0]) == 0.0
    assert logloss([1, 1], [0.0, 1.0]) == np.inf


def test_calibration_by_hand() -> None:
    """Two bins: 0.1 and 0.3 promise 0.2 and find 0.5; 0.9 promises 0.9 and finds 1."""
    found = calibration([0, 1, 1], [0.1, 0.3, 0.9], bins=2)
    assert found.promised == pytest.approx([0.2, 0.9])
    assert found.found == pytest.approx([0.5, 1.0])
    assert found.counts.tolist() == [2, 1]
    assert found.error == pytest.approx((2 * 0.3 + 0.1) / 3)
    assert found.ratio == pytest.approx(1.3 / 2)
    assert calibration([0], [0.5]).ratio == np.inf


def test_a_probability_on_a_border_belongs_above_and_one_to_the_last_bin() -> None:
    assert calibration([0, 1, 1], [0.0, 0.5, 1.0], bins=2).counts.tolist() == [1, 2]
    borders = np.arange(100) / 100  # 0.29 * 100 is below 29
    assert calibration(np.zeros(100), borders, bins=100).counts.tolist() == [1] * 100


def test_gauc_by_hand_leaves_out_users_of_one_class() -> None:
    """Ann: 1 of 2 pairs right; bob clicked all, cid nothing; dan has a tie, which counts half."""
    users = ["ann", "ann", "ann", "bob", "cid", "dan", "dan"]
    labels = [1, 0, 0, 1, 0, 1, 0]
    scores = [2.0, 1.0, 3.0, 0.0, 9.0, 5.0, 5.0]
    assert gauc(labels, scores, users) == pytest.approx((3 * 0.5 + 2 * 0.5) / 5)
    assert np.isnan(gauc([1, 1], [0.0, 1.0], [0, 0]))
    assert np.isnan(auc([0, 0], [0.0, 1.0]))


@pytest.mark.parametrize("ties", [True, False])
def test_against_scikit_learn(ties: bool) -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(3_000)
    if ties:
        scores = np.round(scores, 1)
    labels = (rng.random(3_000) < scores).astype(int)
    users = rng.integers(0, 900, 3_000)  # many users of one class
    inside = np.clip(scores, 0.01, 0.99)
    assert logloss(labels, inside) == pytest.approx(log_loss(labels, inside))
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    own = [users == user for user in np.unique(users)]
    told = [rows for rows in own if 0 < labels[rows].mean() < 1]
    assert 0 < len(told) < len(own)
    expected = np.average(
        [roc_auc_score(labels[rows], scores[rows]) for rows in told],
        weights=[rows.sum() for rows in told],
    )
    assert gauc(labels, scores, users) == pytest.approx(expected)
    if not ties:  # on a border scikit-learn counts a value to the bin below
        shares, promised = calibration_curve(labels, scores, n_bins=10)
        found = calibration(labels, scores)
        np.testing.assert_allclose(found.found, shares)
        np.testing.assert_allclose(found.promised, promised)


@given(
    st.lists(
        st.tuples(st.booleans(), st.floats(-1e6, 1e6), st.integers(0, 3)), min_size=1, max_size=30
    )
)
def test_gauc_does_not_depend_on_order_and_turns_with_the_scores(
    rows: list[tuple[bool, float, int]],
) -> None:
    labels, scores, users = (np.array(column) for column in zip(*rows, strict=True))
    whole = gauc(labels, scores, users)
    order = np.random.default_rng(0).permutation(len(rows))
    assert gauc(labels[order], scores[order], users[order]) == pytest.approx(whole, nan_ok=True)
    assert gauc(labels, -scores, users) == pytest.approx(1 - whole, nan_ok=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: logloss([], []), "there are no labels"),
        (lambda: logloss([2], [0.5]), "a label is neither 0 nor 1"),
        (lambda: logloss([1], [1.5]), "a probability lies outside 0 to 1"),
        (lambda: calibration([1], [np.nan]), "a probability lies outside 0 to 1"),
        (lambda: calibration([1, 0], [0.5]), "labels and probabilities differ in number"),
        (lambda: auc([1], [np.nan]), "a score is not a number"),
        (lambda: gauc([1, 0], [0.5], [0, 0]), "labels and scores differ in number"),
        (lambda: gauc([1, 0], [0.5, 0.1], [0]), "labels and users differ in number"),
    ],
)
def test_what_says_nothing_is_refused(call: Callable[[], float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
