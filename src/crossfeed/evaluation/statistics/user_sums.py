"""A metric of several scorers on the same events, summed by user and domain.

Every figure (micro, macro, a domain's mean) is made of sums over users. An interval or a test by
user needs only these sums. They are sparse, because most users know few domains.

Dims: B events, U users, D domains, P scorers, S scopes (micro, macro, then each domain),
R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from crossfeed.errors import RunError
from crossfeed.evaluation.outcomes import Outcomes
from crossfeed.scorer import Ints

__all__ = ["MACRO", "MICRO", "UserSums", "require_same_events"]

Values = NDArray[np.float64]

MICRO, MACRO = "micro", "macro"


@dataclass(frozen=True)
class UserSums:
    """The sums of P scorers and their numbers of events."""

    domains: tuple[str, ...]
    """(D,) names of the domains that have events, in alphabetical order."""
    counts: sparse.csr_array
    """(D, U)"""
    sums: tuple[sparse.csr_array, ...]
    """P of (D, U)"""

    @classmethod
    def of(cls, scorers: Sequence[Outcomes], metric: str) -> UserSums:
        """Sum a metric; events without a value (NaN) are skipped.

        Raises:
            RunError: the scorers were not judged on the same events, lack the metric, have it on
                different events or on none, or it is infinite.
        """
        known = _known(scorers, metric)
        users, user = np.unique(scorers[0].users[known], return_inverse=True)
        domains, domain = _numbered(scorers[0].domains[known])
        shape = len(domains), len(users)

        def summed(values: Values) -> sparse.csr_array:
            return sparse.coo_array((values, (domain, user)), shape).tocsr()  # adds up repeats

        return cls(
            domains=domains,
            counts=summed(np.ones(len(user))),
            sums=tuple(summed(one.values[metric][known]) for one in scorers),
        )

    @property
    def users(self) -> int:
        """Return U, the number of users who have an event."""
        return int(self.counts.shape[1])

    @property
    def scopes(self) -> tuple[str, ...]:
        """Return (S,) the names of the scopes."""
        return (MICRO, MACRO, *self.domains)

    @property
    def events_of(self) -> Ints:
        """Return (S,) the number of events of each scope."""
        each = self._events.astype(np.int64)
        return np.concatenate([[each.sum(), each.sum()], each])

    @property
    def users_of(self) -> Ints:
        """Return (S,) the number of users of each scope."""
        return np.concatenate([[self.users, self.users], np.diff(self.counts.indptr)])

    def figures(self, weights: Values) -> Values:
        """Return (P, S, R) the figures when each user counts as often as `weights` says.

        Args:
            weights: (U, R) not negative, and not all zero for any of the R.

        A domain without any drawn user has no figure (NaN), and macro skips it.
        """
        totals = (self._stacked @ weights).reshape(len(self.sums) + 1, len(self.domains), -1)
        counts, sums = totals[0], totals[1:]
        drawn = counts > 0  # (D, R)
        means = np.where(drawn, sums / np.where(drawn, counts, 1), 0)  # (P, D, R)
        micro = sums.sum(axis=1) / counts.sum(axis=0)
        macro = means.sum(axis=1) / drawn.sum(axis=0)
        by_domain = np.where(drawn, means, np.nan)
        return np.concatenate([micro[:, None], macro[:, None], by_domain], axis=1)

    def shares(self) -> sparse.csr_array:
        """Return (S, U) each user's part in the differences of the first two scorers' figures.

        The sum of a row is the difference.
        """
        moved = self.sums[0] - self.sums[1]
        by_domain = sparse.diags_array(1 / self._events) @ moved
        micro = moved.sum(axis=0) / self._events.sum()
        macro = by_domain.sum(axis=0) / len(self.domains)
        shares = sparse.vstack([micro[None], macro[None], by_domain], format="csr")
        shares.eliminate_zeros()
        return shares

    @property
    def _events(self) -> Values:
        return np.asarray(self.counts.sum(axis=1), float)  # (D,)

    @cached_property
    def _stacked(self) -> sparse.csr_array:
        """Return ((1 + P) D, U) counts and sums, for one product instead of several."""
        return sparse.vstack([self.counts, *self.sums], format="csr")


def require_same_events(first: Outcomes, second: Outcomes) -> None:
    """Refuse outcomes that cannot be paired.

    Raises:
        RunError: the outcomes are not of the same events.
    """
    if not (
        np.array_equal(first.events, second.events)
        and np.array_equal(first.users, second.users)
        and np.array_equal(first.domains, second.domains)
    ):
        both = len(np.intersect1d(first.events, second.events))
        raise RunError(
            f"'{first.scorer}' and '{second.scorer}' were not judged on the same events: "
            f"{len(first.events):,} and {len(second.events):,}, {both:,} of them in both",
            hint="evaluate both on the same part of the same dataset",
        )


def _known(scorers: Sequence[Outcomes], metric: str) -> NDArray[np.bool_]:
    """Return (B,) whether the event has a value of the metric."""
    first = scorers[0]
    for one in scorers:
        require_same_events(first, one)
        if metric not in one.values:
            raise RunError(
                f"'{one.scorer}' has no metric '{metric}'; it has: {', '.join(one.values)}"
            )
        _require_finite(one, metric)
    known = ~np.isnan(first.values[metric])
    for one in scorers[1:]:
        if not np.array_equal(known, ~np.isnan(one.values[metric])):
            raise RunError(
                f"'{metric}' is not defined on the same events for '{first.scorer}' and "
                f"'{one.scorer}'",
                hint="compare them by a rank metric, such as ndcg@10",
            )
    if not known.any():
        raise RunError(f"'{metric}' says nothing about any event of '{first.scorer}'")
    return known


def _require_finite(outcomes: Outcomes, metric: str) -> None:
    """Refuse infinite values: they have no mean, and a difference of two is not a number."""
    values = outcomes.values[metric]
    infinite = int(np.isinf(values).sum())
    if infinite:
        raise RunError(
            f"the {metric} of '{outcomes.scorer}' is infinite for {infinite:,} of "
            f"{len(values):,} events: the clicked item has no probability there",
            hint="compare by a rank metric, such as ndcg@10",
        )


def _numbered(names: NDArray[np.object_]) -> tuple[tuple[str, ...], Ints]:
    """Return the distinct names in alphabetical order, and (B,) the place of each event's name."""
    coded = pa.array(names, pa.string()).dictionary_encode()
    found = coded.dictionary.to_pylist()
    order = sorted(range(len(found)), key=found.__getitem__)
    places = np.empty(len(found), np.int64)
    places[order] = np.arange(len(found))
    return tuple(found[place] for place in order), places[coded.indices.to_numpy()]
