"""A moment of a dataset: what everybody did before a time.

Dims: N items of a pool, F features of demand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from crossfeed.data.demand import DemandHistory
from crossfeed.scorer import Bools, Doubles, Ints

__all__ = ["LogMoment"]


@dataclass(frozen=True)
class LogMoment:
    """The clicks of a dataset before a time."""

    time: int
    """In milliseconds since 1970."""
    history: Callable[[int], DemandHistory]
    """Domain -> its clicks, of all times."""

    def demand(self, domain: int) -> Doubles:
        """Return (N, F) the demand of each item of the domain's pool."""
        history = self.history(domain)
        return history.demand(_places(history), history.before(self.time))[0]

    def exists(self, domain: int) -> Bools:
        """Return (N,) whether each item of the domain's pool was clicked before."""
        history = self.history(domain)
        before = history.before(self.time)
        return np.asarray(history.clicks(_places(history), before) > 0)


def _places(history: DemandHistory) -> Ints:
    return np.arange(len(history.starts) - 1)
