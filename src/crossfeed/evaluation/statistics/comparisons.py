"""Uncertainty of figures and differences: intervals and tests by user.

A user's events are not independent of each other, so users are resampled and flipped. A figure is
micro (mean over events), macro (mean over the domains' means) or one domain's mean.

Dims: P scorers, S scopes (micro, macro, then each domain), R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crossfeed.evaluation.metrics import LOWER_IS_BETTER
from crossfeed.evaluation.outcomes import Outcomes
from crossfeed.evaluation.statistics.resampling import (
    drawn_users,
    randomisation_test,
    wilcoxon_test,
)
from crossfeed.evaluation.statistics.user_sums import (
    MACRO,
    MICRO,
    UserSums,
    Values,
    require_same_events,
)

__all__ = [
    "MACRO",
    "MICRO",
    "SURE",
    "Comparison",
    "Estimate",
    "adjusted",
    "compare",
    "estimates",
    "flips_for",
    "holm",
    "mean_over_seeds",
]

RESAMPLES = 1_000
FLIPS = 10_000
SURE = 0.05
"""Largest adjusted p of a significant difference."""

_INTERVAL = (2.5, 97.5)
"""Percentiles at the ends of a 95% interval."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% bootstrap interval by user."""

    scope: str
    """micro, macro, or a domain's name."""
    events: int
    users: int
    mean: float
    low: float | None
    """Lower end of the interval; None if there is only one user."""
    high: float | None


@dataclass(frozen=True)
class Comparison:
    """Two scorers on the same events."""

    scope: str
    """micro, macro, or a domain's name."""
    metric: str
    events: int
    users: int
    first: float
    first_low: float | None
    """Lower end of the 95% interval of `first`; None if there is only one user."""
    first_high: float | None
    second: float
    second_low: float | None
    second_high: float | None
    low: float | None
    """Lower end of the 95% interval of `first - second`."""
    high: float | None
    p: float
    """Of the paired randomisation test, two-sided."""
    p_wilcoxon: float
    """Of the Wilcoxon signed-rank test on the users' sums, for comparison."""
    p_holm: float = float("nan")
    """`p` adjusted for all comparisons made together (`holm`)."""

    @property
    def difference(self) -> float:
        """Return `first - second`."""
        return self.first - self.second

    @property
    def better(self) -> Literal["first", "second", "not sure"]:
        """Return which one is better, by the adjusted p and the metric's direction."""
        if not self.p_holm <= SURE or self.difference == 0:
            return "not sure"
        first_is_better = (self.difference > 0) != (self.metric in LOWER_IS_BETTER)
        return "first" if first_is_better else "second"


def mean_over_seeds(outcomes: Sequence[Outcomes], *, name: str | None = None) -> Outcomes:
    """Return the mean of each event's metrics over several trainings of one scorer.

    Raises:
        RunError: the outcomes are not of the same events.
    """
    first = outcomes[0]
    for other in outcomes[1:]:
        require_same_events(first, other)
    metrics = [key for key in first.values if all(key in other.values for other in outcomes)]
    values = {key: np.mean([one.values[key] for one in outcomes], axis=0) for key in metrics}
    return Outcomes(name or first.scorer, first.events, first.users, first.domains, values)


def estimates(
    outcomes: Outcomes, metric: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Estimate]:
    """Return micro, macro and each domain's mean with 95% intervals.

    Percentile bootstrap over users (Efron & Tibshirani 1993, section 13.3). Events without a value
    (NaN) are skipped.

    Raises:
        RunError: the outcomes lack the metric, it is infinite, or no event has a value.
    """
    sums = UserSums.of([outcomes], metric)
    (means,) = _means(sums)
    ((low, high),) = _intervals(_resampled(sums, resamples, seed), sums)
    return [
        Estimate(
            scope=scope,
            events=int(sums.events_of[place]),
            users=int(sums.users_of[place]),
            mean=float(means[place]),
            low=low[place],
            high=high[place],
        )
        for place, scope in enumerate(sums.scopes)
    ]


def compare(
    first: Outcomes,
    second: Outcomes,
    metric: str,
    *,
    resamples: int = RESAMPLES,
    flips: int | None = None,
    seed: int = 0,
) -> list[Comparison]:
    """Compare two scorers on the same events: micro, macro and each domain.

    The paired randomisation test exchanges the two scorers for random users, with all events of a
    user at once (`randomisation_test`). Intervals are made as in `estimates`, for the difference
    from the same draws. `p_holm` is NaN: `adjusted` fills it for all comparisons made together.

    Args:
        first: one scorer.
        second: another one.
        metric: the metric that is compared.
        resamples: how often users are drawn again for the intervals.
        flips: how often users are exchanged for the test. The default is enough for Holm over the
            returned comparisons; `flips_for` gives the number for more.
        seed: the same seed gives the same numbers.

    Raises:
        RunError: they are not of the same events, lack the metric, or it is infinite or not
            defined on the same events.
    """
    sums = UserSums.of([first, second], metric)
    means = _means(sums)
    sampled = _resampled(sums, resamples, seed)
    pairs = np.concatenate([sampled, sampled[:1] - sampled[1:]])
    (first_low, first_high), (second_low, second_high), (low, high) = _intervals(pairs, sums)
    shares = sums.shares()
    p = randomisation_test(shares, flips=flips or flips_for(len(sums.scopes)), seed=seed)
    return [
        Comparison(
            scope=scope,
            metric=metric,
            events=int(sums.events_of[place]),
            users=int(sums.users_of[place]),
            first=float(means[0, place]),
            first_low=first_low[place],
            first_high=first_high[place],
            second=float(means[1, place]),
            second_low=second_low[place],
            second_high=second_high[place],
            low=low[place],
            high=high[place],
            p=float(p[place]),
            p_wilcoxon=wilcoxon_test(shares.data[slice(*shares.indptr[place : place + 2])]),
        )
        for place, scope in enumerate(sums.scopes)
    ]


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values adjusted so that any false alarm is as unlikely as with one test.

    Source: Holm 1979: the k-th smallest of n is multiplied by n - k + 1, in order never falling.
    """
    values = np.asarray(p, float)
    order = np.argsort(values, kind="stable")
    scaled = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(value) for value in adjusted]


def adjusted(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return comparisons that are made together, each with its `p_holm`."""
    p_values = holm([one.p for one in comparisons])
    return [replace(one, p_holm=p) for one, p in zip(comparisons, p_values, strict=True)]


def flips_for(comparisons: int) -> int:
    """Return how many flips let the smallest p stay below 0.01 after Holm over all comparisons."""
    return max(FLIPS, 100 * comparisons)


def _means(sums: UserSums) -> Values:
    """Return (P, S) the figures."""
    return sums.figures(np.ones((sums.users, 1)))[:, :, 0]


def _resampled(sums: UserSums, resamples: int, seed: int) -> Values:
    """Return (P, S, R) the figures of resampled users."""
    blocks = drawn_users(sums.users, resamples=resamples, seed=seed)
    return np.concatenate([sums.figures(weights) for weights in blocks], axis=2)


def _intervals(
    sampled: Values, sums: UserSums
) -> list[tuple[list[float | None], list[float | None]]]:
    """Return the lower and upper ends, (S,) each, of every scorer's figures (P, S, R)."""
    alone = sums.users_of < 2
    ends = np.nanpercentile(np.where(alone[:, None], 0, sampled), _INTERVAL, axis=2)  # (2, P, S)
    return [(_ends(low, alone), _ends(high, alone)) for low, high in zip(*ends, strict=True)]


def _ends(values: Values, alone: NDArray[np.bool_]) -> list[float | None]:
    return [None if none else float(value) for value, none in zip(values, alone, strict=True)]
