"""Demand: how much an item is clicked by everybody, as of a moment.

The decayed count of an item at a half-life h, as of a time t, is the sum of 2^-((t - s) / h) over
its clicks at times s < t. Demand is the share of an item in the decayed count of its domain, for
nine fixed half-lives. A share does not change while nobody clicks, so a domain that grows, pauses
or begins late has the same features. Ages are told relative to the domain's last click.

    0 ... 8   log of the item's share of its domain's decayed count, by `HALF_LIVES`
    9         log of its share of all clicks
    10, 11    log(1 + hours) since its first and its last click

One click of an item is enough for all of them, and an item without a click has no demand: its
shares are the least, its ages are zero.

Dims: n clicks of a domain, N items of its pool, H half-lives, F features; `...` is any shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from crossfeed.scorer import Bools, Doubles, Ints

__all__ = ["FEATURES", "HALF_LIVES", "LEAST_LOG_SHARE", "DemandHistory", "features"]

_HOUR = 3_600_000
HALF_LIVES = tuple(hours * _HOUR for hours in (1, 6, 24, 72, 168, 336, 720, 2160, 8760))
"""The half-lives in milliseconds: 1 and 6 hours, 1, 3, 7, 14, 30, 90 and 365 days."""
FEATURES = len(HALF_LIVES) + 3
"""F"""
LEAST_LOG_SHARE = -20.0
"""Log of the least share, for items that are as good as forgotten."""

_RATES = -np.log(2) / np.array(HALF_LIVES, np.float64)
"""(H,) change of the log of a decayed count in a millisecond."""


def features(
    log_counts: Doubles,
    clicks: Ints,
    since_first: Ints,
    since_last: Ints,
    *,
    log_totals: Doubles,
    total: Ints,
) -> Doubles:
    """Return (..., F) the demand of items.

    Args:
        log_counts: (..., H) log of each item's decayed counts, as of the domain's last click.
        clicks: (...) how many clicks it has; 0 for no demand.
        since_first: (...) milliseconds from its first click to the domain's last.
        since_last: (...) milliseconds from its last click to the domain's last.
        log_totals: (..., H) log of the domain's decayed counts, as of its last click.
        total: (...) how many clicks the domain has.
    """
    found = np.empty((*clicks.shape, FEATURES))
    found[..., :-3] = log_counts - log_totals
    with np.errstate(divide="ignore"):  # no click at all
        found[..., -3] = np.log(clicks) - np.log(np.maximum(total, 1))
    np.maximum(found, LEAST_LOG_SHARE, out=found)
    found[..., -2] = np.log1p(since_first / _HOUR)
    found[..., -1] = np.log1p(since_last / _HOUR)
    found[clicks == 0] = [LEAST_LOG_SHARE] * (FEATURES - 2) + [0.0, 0.0]
    return found


@dataclass(frozen=True)
class DemandHistory:
    """The clicks of one domain, prepared to tell demand as of any time."""

    times: Ints
    """(n,) of all clicks, ascending."""
    starts: Ints
    """(N + 1,) where each item's clicks begin in the arrays by item."""
    ranks: Ints
    """(n,) place of each click in `times`; by item, then ascending."""

    @classmethod
    def of(cls, items: Ints, times: Ints, *, count: int) -> DemandHistory:
        """Sort the clicks of a domain.

        Args:
            items: (n,) place of each click's item in the pool.
            times: (n,) milliseconds since 1970.
            count: N.
        """
        order = np.argsort(times, kind="stable")
        items = items[order]
        starts = np.concatenate(
            [np.zeros(1, np.int64), np.cumsum(np.bincount(items, minlength=count))]
        )
        return cls(times[order], starts, np.argsort(items, kind="stable"))

    def before(self, time: int | Ints) -> Ints:
        """Return how many clicks of the domain are earlier than each time."""
        return np.searchsorted(self.times, time).astype(np.int64)

    def clicks(self, places: Ints, before: Ints) -> Ints:
        """Return (...) how many of the domain's first `before` clicks each item has.

        Args:
            places: (...) of the items in the pool.
            before: (...) results of `before`.
        """
        ends: Ints = np.searchsorted(self._keys, places * self._span + before)
        return ends - self.starts[places]

    def demand(self, places: Ints, before: Ints) -> tuple[Doubles, Ints]:
        """Return (..., F) the demand of items, and (...) how many clicks they have.

        Args:
            places: (...) of the items in the pool.
            before: (...) how many of the domain's clicks count, see `before`.
        """
        clicks = self.clicks(places, before)
        if not len(self.times):
            none = np.zeros((*clicks.shape, len(HALF_LIVES)))
            return features(none, clicks, clicks, clicks, log_totals=none, total=before), clicks
        start = self.starts[places]
        newest = self.ranks[np.clip(start + clicks - 1, 0, len(self.times) - 1)]
        oldest = self.ranks[np.minimum(start, len(self.times) - 1)]
        latest = np.maximum(before - 1, 0)
        now = self.times[latest]
        since_first, since_last = now - self.times[oldest], now - self.times[newest]
        none = clicks == 0
        since_first[none] = since_last[none] = 0
        of_items = self._log_counts[np.maximum(start + clicks - 1, 0)]
        return features(
            of_items + since_last[..., None] * _RATES,
            clicks,
            since_first,
            since_last,
            log_totals=self._log_totals[latest],
            total=before,
        ), clicks

    @property
    def _span(self) -> int:
        return len(self.times) + 1

    @cached_property
    def _keys(self) -> Ints:
        """(n,) item and rank of each click as one ascending number."""
        return (
            np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts)) * self._span
            + self.ranks
        )

    @cached_property
    def _log_counts(self) -> Doubles:
        """(n, H) log of the item's decayed counts at each of its clicks, that click included."""
        firsts = np.zeros(len(self.times), np.bool_)
        firsts[self.starts[:-1][np.diff(self.starts) > 0]] = True
        return _running(self.times[self.ranks], firsts)

    @cached_property
    def _log_totals(self) -> Doubles:
        """(n, H) log of the domain's decayed counts at each of its clicks, that click included."""
        firsts = np.zeros(len(self.times), np.bool_)
        firsts[:1] = True
        return _running(self.times, firsts)


def _running(times: Ints, firsts: Bools) -> Doubles:
    """Return (n, H) logs of decayed counts along series of clicks.

    The count of a click is 1 and the decayed count of the click before. A sum over 1, 2, 4, ...
    clicks at once takes the place of a loop over the clicks.

    Args:
        times: (n,) of each series' clicks, ascending.
        firsts: (n,) whether a series begins.
    """
    gaps = np.where(firsts, 0, np.diff(times, prepend=times[:1]))
    logs = np.empty((len(times), len(HALF_LIVES)))
    for column, rate in enumerate(_RATES):
        counts, kept = np.ones(len(times)), np.where(firsts, 0.0, np.exp(gaps * rate))
        reach = 1
        while reach < len(times) and kept.any():
            counts[reach:] += kept[reach:] * counts[:-reach]
            kept[reach:] *= kept[:-reach].copy()
            reach *= 2
        logs[:, column] = np.log(counts)
    return logs
