"""Metrics of labelled impressions: 1 for a click, 0 for an impression without one.

A dataset holds only clicks, so `evaluate` does not use these metrics. Use them if you log
impressions and have a probability or a score for each.

Dims: B impressions, U users, M bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

__all__ = ["Calibration", "auc", "calibration", "gauc", "logloss"]

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """How far predicted probabilities are from the actual shares of clicks."""

    error: float
    """Expected calibration error: mean over impressions of |predicted - actual| of their bin."""
    ratio: float
    """Predicted clicks divided by actual clicks; infinite if there are no clicks."""
    promised: Values
    """(M,) mean probability of each bin that has impressions, ascending."""
    found: Values
    """(M,) share of clicks in it."""
    counts: NDArray[np.int64]
    """(M,) impressions in it."""


def logloss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Return -mean(y log p + (1 - y) log(1 - p)), in nats.

    Infinite if a probability of 0 or 1 was wrong, because nothing is clipped.

    Args:
        labels: (B,) 1 for a click, 0 for an impression without one.
        probabilities: (B,) of a click, 0 to 1.

    Raises:
        ValueError: a label is not 0 or 1, a probability outside 0..1, or there are none.
    """
    clicked, chance = _checked(labels, probabilities)
    with np.errstate(divide="ignore"):
        return float(-np.log(np.where(clicked, chance, 1 - chance)).mean())


def calibration(labels: ArrayLike, probabilities: ArrayLike, *, bins: int = 10) -> Calibration:
    """Return how well probabilities match the clicks, in bins of equal width.

    Args:
        labels: (B,) 1 for a click, 0 for an impression without one.
        probabilities: (B,) of a click, 0 to 1.
        bins: how many; a probability on a border belongs to the bin above it, 1 to the last one.

    Raises:
        ValueError: a label is not 0 or 1, a probability outside 0..1, or there are none.

    Source: Guo et al. 2017 (ICML), equation 3; He et al. 2014 (ADKDD), for the ratio.
    """
    clicked, chance = _checked(labels, probabilities)
    place = np.searchsorted(np.arange(1, bins) / bins, chance, side="right")
    counts = np.bincount(place, minlength=bins)
    used = counts > 0
    promised = np.bincount(place, chance, minlength=bins)[used] / counts[used]
    found = np.bincount(place, clicked, minlength=bins)[used] / counts[used]
    shares = counts[used] / len(clicked)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.float64(chance.sum()) / clicked.sum()
    return Calibration(
        error=float((shares * np.abs(promised - found)).sum()),
        ratio=float(ratio),
        promised=promised,
        found=found,
        counts=counts[used],
    )


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the probability that a click scores above a non-click, ties counting half.

    NaN if there is only one class.

    Raises:
        ValueError: a label is not 0 or 1, a score is not a number, or there are none.

    Source: Hanley & McNeil 1982.
    """
    return gauc(labels, scores, np.zeros(np.shape(labels), np.int64))


def gauc(labels: ArrayLike, scores: ArrayLike, users: ArrayLike) -> float:
    """Return the mean of the users' `auc`, weighted by their impressions.

    Users who clicked all or nothing are left out; NaN if no user is left.

    Args:
        labels: (B,) 1 for a click, 0 for an impression without one.
        scores: (B,) any finite or infinite values.
        users: (B,) whose impression it was.

    Raises:
        ValueError: a label is not 0 or 1, a score is not a number, or there are none.

    Source: Zhu et al. 2017 (KDD), equation 12.
    """
    clicked, values = _labels(labels), np.asarray(scores, np.float64)
    _require(not np.isnan(values).any(), "a score is not a number")
    _require(len(values) == len(clicked), "labels and scores differ in number")
    _require(len(np.asarray(users)) == len(clicked), "labels and users differ in number")
    _, user = np.unique(np.asarray(users), return_inverse=True)
    order = np.argsort(user, kind="stable")
    user, clicked, values = user[order], clicked[order], values[order]
    totals = np.bincount(user)
    clicks = np.bincount(user, clicked)
    ranks = _ranks_within(user, values)
    sums = np.bincount(user, ranks * clicked)
    pairs = clicks * (totals - clicks)
    told = pairs > 0
    if not told.any():
        return float("nan")
    each = (sums - clicks * (clicks + 1) / 2)[told] / pairs[told]
    return float(np.average(each, weights=totals[told]))


def _ranks_within(groups: NDArray[np.int64], values: Values) -> Values:
    """Return (B,) the rank of each value in its group, from 1, ties sharing; groups ascend."""
    dense = stats.rankdata(values, "dense")  # keeps ties and is safe to combine
    whole = stats.rankdata(groups * (dense.max() + 1.0) + dense)
    firsts = np.searchsorted(groups, groups)
    return np.asarray(whole - firsts, np.float64)


def _checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Values, Values]:
    clicked, chance = _labels(labels), np.asarray(probabilities, np.float64)
    _require(len(chance) == len(clicked), "labels and probabilities differ in number")
    _require(bool(((chance >= 0) & (chance <= 1)).all()), "a probability lies outside 0 to 1")
    return clicked, chance


def _labels(labels: ArrayLike) -> Values:
    clicked = np.asarray(labels, np.float64)
    _require(len(clicked) > 0, "there are no labels")
    _require(bool(np.isin(clicked, (0.0, 1.0)).all()), "a label is neither 0 nor 1")
    return clicked


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(problem)
