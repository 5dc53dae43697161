"""How sure a figure is, and how sure a difference: intervals and tests by user.

A user's events are not independent of each other, so users are what is resampled and what is
flipped. A figure is micro (mean over events), macro (mean over the means of the domains) or that of
one domain; each is a sum over users, which is all that these functions need.

Dims: B events, U users, D domains, S scopes (micro, macro, then each domain), R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from crossfeed.errors import RunError
from crossfeed.evaluation.outcomes import Outcomes

__all__ = [
    "MACRO",
    "MICRO",
    "Comparison",
    "Estimate",
    "compare",
    "estimates",
    "holm",
    "mean_over_seeds",
]

Values = NDArray[np.float64]

MICRO, MACRO = "micro", "macro"

RESAMPLES = 1_000
FLIPS = 10_000
_CELLS_AT_ONCE = 16_000_000
"""Weights or signs held in memory at a time: 128 MB."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% bootstrap interval by user."""

    scope: str
    """micro, macro, or a domain's name."""
    events: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two scorers on the same events."""

    scope: str
    """micro, macro, or a domain's name."""
    events: int
    first: float
    second: float
    low: float
    """Lower end of the 95% interval of `first - second`."""
    high: float
    p: float
    """Of the paired randomisation test, two-sided."""
    p_wilcoxon: float
    """Of the Wilcoxon signed-rank test on the users' sums, for who is used to it."""
    p_holm: float = float("nan")
    """`p` adjusted for all comparisons that were made together (`holm`)."""

    @property
    def difference(self) -> float:
        """Return by how much the first is better."""
        return self.first - self.second


def mean_over_seeds(outcomes: Sequence[Outcomes], *, name: str | None = None) -> Outcomes:
    """Return the mean of each event's metrics over several trainings of one scorer.

    Raises:
        RunError: they are not of the same events.
    """
    first = outcomes[0]
    for other in outcomes[1:]:
        _require_same_events(first, other)
    metrics = [key for key in first.values if all(key in other.values for other in outcomes)]
    values = {key: np.mean([one.values[key] for one in outcomes], axis=0) for key in metrics}
    return Outcomes(name or first.scorer, first.events, first.users, first.domains, values)


def estimates(
    outcomes: Outcomes, metric: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Estimate]:
    """Return micro, macro and each domain's mean with 95% intervals.

    Percentile bootstrap over users (Efron & Tibshirani 1993, section 13.3). Events about which the
    metric says nothing (NaN) take no part.
    """
    sums = _Sums.of(outcomes, metric)
    sampled = np.concatenate([sums.figures(w) for w in _resamples(sums, resamples, seed)])
    low, high = np.nanpercentile(sampled, [2.5, 97.5], axis=0)
    means = sums.figures(np.ones((1, sums.users)))[0]
    return [
        Estimate(scope, int(events), float(mean), float(below), float(above))
        for scope, events, mean, below, above in zip(
            sums.scopes, sums.events, means, low, high, strict=True
        )
    ]


def compare(
    first: Outcomes,
    second: Outcomes,
    metric: str,
    *,
    resamples: int = RESAMPLES,
    flips: int = FLIPS,
    seed: int = 0,
) -> list[Comparison]:
    """Compare two scorers on the same events: micro, macro and each domain.

    The paired randomisation test exchanges the two scorers for a user, all events at once, at
    random: p = (1 + as extreme exchanges) / (1 + exchanges) (Smucker et al. 2007; Phipson & Smyth
    2010). `p_holm` is left open: `holm` fills it for all comparisons made together.

    Raises:
        RunError: they are not of the same events, or lack the metric.
    """
    _require_same_events(first, second)
    one, other = _Sums.of(first, metric), _Sums.of(second, metric)
    if not np.array_equal(np.isnan(first.values[metric]), np.isnan(second.values[metric])):
        raise RunError(
            f"'{metric}' is not defined on the same events for '{first.scorer}' and "
            f"'{second.scorer}'",
            hint="compare them by a rank metric, such as ndcg@10",
        )
    everyone = np.ones((1, one.users))
    means, others = one.figures(everyone)[0], other.figures(everyone)[0]
    sampled = np.concatenate(
        [one.figures(w) - other.figures(w) for w in _resamples(one, resamples, seed)]
    )
    low, high = np.nanpercentile(sampled, [2.5, 97.5], axis=0)
    shares = one.shares() - other.shares()  # (U, S): a user's part in each difference
    p = _randomisation(shares, flips=flips, seed=seed)
    return [
        Comparison(
            scope=scope,
            events=int(one.events[place]),
            first=float(means[place]),
            second=float(others[place]),
            low=float(low[place]),
            high=float(high[place]),
            p=float(p[place]),
            p_wilcoxon=_wilcoxon(shares[:, place]),
        )
        for place, scope in enumerate(one.scopes)
    ]


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values adjusted so that the chance of any false alarm stays what one's would be.

    Source: Holm 1979: the k-th smallest of n is multiplied by n - k + 1, in order never falling.
    """
    values = np.asarray(p, float)
    order = np.argsort(values, kind="stable")
    scaled = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(value) for value in adjusted]


@dataclass(frozen=True)
class _Sums:
    """A metric summed by user and domain."""

    domains: tuple[str, ...]
    sums: Values
    """(U, D)"""
    counts: Values
    """(U, D) events that the sums are of."""

    @classmethod
    def of(cls, outcomes: Outcomes, metric: str) -> _Sums:
        if metric not in outcomes.values:
            raise RunError(
                f"'{outcomes.scorer}' has no metric '{metric}'; "
                f"it has: {', '.join(outcomes.values)}"
            )
        values = outcomes.values[metric]
        known = ~np.isnan(values)
        users, user = np.unique(outcomes.users[known], return_inverse=True)
        domains, domain = np.unique(outcomes.domains[known].astype(str), return_inverse=True)
        cells, shape = user * len(domains) + domain, (len(users), len(domains))
        size = len(users) * len(domains)
        return cls(
            domains=tuple(domains.tolist()),
            sums=np.bincount(cells, values[known], minlength=size).astype(float).reshape(shape),
            counts=np.bincount(cells, minlength=size).reshape(shape).astype(float),
        )

    @property
    def users(self) -> int:
        return len(self.sums)

    @property
    def scopes(self) -> tuple[str, ...]:
        return (MICRO, MACRO, *self.domains)

    @property
    def events(self) -> Values:
        """Return (S,) the number of events of each scope."""
        each = self.counts.sum(axis=0)
        return np.concatenate([[each.sum(), each.sum()], each])

    def figures(self, weights: Values) -> Values:
        """Return (R, S) the figures when each user counts as often as `weights` (R, U) says."""
        sums, counts = weights @ self.sums, weights @ self.counts  # (R, D)
        with np.errstate(invalid="ignore", divide="ignore"):  # a domain may be drawn empty
            means = sums / counts
            micro = sums.sum(axis=1) / counts.sum(axis=1)
        absent = np.isnan(means)
        macro = np.where(absent, 0, means).sum(axis=1) / np.maximum((~absent).sum(axis=1), 1)
        return np.column_stack([micro, macro, means])

    def shares(self) -> Values:
        """Return (U, S) what each user adds to each figure; the figures are their sums."""
        counts = self.counts.sum(axis=0)
        by_domain = self.sums / counts
        micro = self.sums.sum(axis=1) / counts.sum()
        return np.column_stack([micro, by_domain.mean(axis=1), by_domain])


def _resamples(sums: _Sums, resamples: int, seed: int) -> Iterator[Values]:
    """Yield blocks (r, U) of how often each user is drawn, U draws with replacement each."""
    rng = np.random.default_rng(seed)
    for size in _blocks(resamples, sums.users):
        drawn = rng.integers(sums.users, size=(size, sums.users))
        drawn += np.arange(size)[:, None] * sums.users
        counts = np.bincount(drawn.ravel(), minlength=size * sums.users)
        yield counts.reshape(size, sums.users).astype(float)


def _randomisation(shares: Values, *, flips: int, seed: int) -> Values:
    """Return (S,) p-values of the sums of `shares` (U, S) under random signs of the users."""
    rng = np.random.default_rng(seed)
    observed = np.abs(shares.sum(axis=0))
    slack = 1e-9 * np.abs(shares).sum(axis=0)  # sums of the same numbers differ in rounding
    extreme = np.zeros(shares.shape[1])
    for size in _blocks(flips, len(shares)):
        signs = rng.integers(2, size=(size, len(shares))) * 2.0 - 1.0
        extreme += (np.abs(signs @ shares) >= observed - slack).sum(axis=0)
    return np.asarray((1 + extreme) / (1 + flips))


def _wilcoxon(differences: Values) -> float:
    moved = differences[differences != 0]
    return float(stats.wilcoxon(moved).pvalue) if len(moved) else 1.0


def _blocks(count: int, width: int) -> Iterator[int]:
    size = max(1, _CELLS_AT_ONCE // max(width, 1))
    for first in range(0, count, size):
        yield min(size, count - first)


def _require_same_events(first: Outcomes, second: Outcomes) -> None:
    if not (
        np.array_equal(first.events, second.events)
        and np.array_equal(first.users, second.users)
        and np.array_equal(first.domains, second.domains)
    ):
        raise RunError(
            f"'{first.scorer}' and '{second.scorer}' were not judged on the same events",
            hint="evaluate both on the same part of the same dataset",
        )
