"""Popularity: the same ranking for every user.

An item belongs to one domain, so global popularity and popularity per domain rank a pool the same.

Dims: B histories, I items, N items of a pool.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy import sparse

from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import ConfigError
from crossfeed.evaluation.baselines.baseline import Baseline, Trials
from crossfeed.scorer import Floats, Histories

__all__ = ["Popularity", "RecentPopularity"]


class Popularity(Baseline):
    """Score an item by its training clicks, the same for every user."""

    name = "popularity"

    @classmethod
    def trials(cls) -> Trials:
        """Return the only setting."""
        return {"": cls}

    def _score(self, known: sparse.csr_matrix, pool: slice) -> Floats:
        return np.broadcast_to(self._popularity[pool], (known.shape[0], pool.stop - pool.start))


class RecentPopularity(Popularity):
    """Score an item by the training clicks before the target click, weighted by age.

    A click's weight halves with every `half_life` of its age; later clicks do not count. Half-lives
    are shares of the training span, so one setting fits a week of news and years of ratings. Ties
    are ranked by popularity.

    Source: recency of popularity as in Ji et al. 2020 (SIGIR), "DecayPop".
    """

    name = "recent-popularity"

    def __init__(self, dataset: Dataset, *, half_life: float = 0.01) -> None:
        """Sort the clicks by domain and time.

        Args:
            dataset: the baseline counts its training part.
            half_life: as a share of the training span, above 0; the default was chosen
                on the validation part of Ciao (last-out).

        Raises:
            ConfigError: the half-life is not above 0.
        """
        if not half_life > 0:
            raise ConfigError(f"half_life is {half_life}; it must be above 0")
        super().__init__(dataset)
        events = dataset.events(Part.TRAIN)
        times, domains = dataset.event_time[events], dataset.event_domain[events]
        order = np.lexsort((times, domains))
        # (n,) of each domain's clicks, from `starts[domain]` on, in time order.
        self._times, self._items = times[order], dataset.event_item[events][order]
        self._starts = np.searchsorted(
            domains[order], np.arange(len(dataset.catalogue.domains) + 1)
        )
        self._half_life = max(float(np.ptp(times)) if len(times) else 0.0, 1.0) * half_life

    @classmethod
    def trials(cls) -> Trials:
        """Return the settings that tuning tries."""
        return {
            f"half_life={half_life}": partial(cls, half_life=half_life)
            for half_life in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
        }

    def score(self, histories: Histories, domain: int) -> Floats:
        """Return (B, N) the score of each item of the domain's pool; higher is better."""
        pool = self._catalogue.pool(domain)
        own = slice(*self._starts[domain : domain + 2])
        times, items = self._times[own], self._items[own] - pool.start
        asked = histories.times  # (B,)
        if asked is None:
            asked = np.full(len(histories), np.iinfo(np.int64).max)
        # Row by row in time order: the aged earlier count, plus the clicks since.
        order = np.argsort(asked, kind="stable")
        ends = np.searchsorted(times, asked[order])
        scores = np.empty((len(asked), pool.stop - pool.start), np.float32)
        counted = np.zeros(pool.stop - pool.start)
        begin, at = 0, float(times[0]) if len(times) else 0.0
        for row, end in zip(order.tolist(), ends.tolist(), strict=True):
            if end > begin:
                newest = float(times[end - 1])
                weights = 0.5 ** ((newest - times[begin:end]) / self._half_life)
                counted *= 0.5 ** ((newest - at) / self._half_life)
                counted += np.bincount(items[begin:end], weights, minlength=len(counted))
                begin, at = end, newest
            scores[row] = counted
        popularity = self._popularity[pool]
        scores += popularity * np.float32(1e-6 / max(popularity.max(initial=0.0), 1.0))
        return scores
