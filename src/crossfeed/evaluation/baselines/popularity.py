"""Popularity: the same ranking for every user.

An item belongs to one domain, so ranking a pool by all clicks and by the clicks of its domain is
the same: there is no second, "global" popularity.

Dims: B histories, I items, N items of a pool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from crossfeed.data.dataset import Dataset, Part
from crossfeed.scorer import Floats, Histories, Scorer

__all__ = ["Popularity", "RecentPopularity"]


class Popularity:
    """Score an item by its training clicks, the same for every user."""

    name = "popularity"

    @classmethod
    def trials(cls) -> Mapping[str, Callable[[Dataset], Scorer]]:
        """Return the settings that tuning tries: there is nothing to set."""
        return {"": cls}

    def __init__(self, dataset: Dataset) -> None:
        self._catalogue = dataset.catalogue
        self._clicks = dataset.item_clicks.astype(np.float32)

    def score(self, histories: Histories, domain: int) -> Floats:
        """Return (B, N) the clicks of each item of the pool."""
        clicks = self._clicks[self._catalogue.pool(domain)]
        return np.broadcast_to(clicks, (len(histories), len(clicks)))


class RecentPopularity:
    """Score an item by its training clicks, each halved for every `half_life` that it is old.

    Ages are counted from the newest click of training, in shares of the time that training spans,
    so that a setting fits a week of news as well as years of ratings. The default was chosen on the
    validation part of Ciao (last-out).
    """

    name = "recent-popularity"

    def __init__(self, dataset: Dataset, *, half_life: float = 1.0) -> None:
        self._catalogue = dataset.catalogue
        events = dataset.events(Part.TRAIN)
        times = dataset.event_time[events].astype(np.float64)
        span = max(float(np.ptp(times)) if len(times) else 0.0, 1.0)
        weights = 0.5 ** ((times.max(initial=0.0) - times) / (span * half_life))
        items = dataset.event_item[events]
        counts = np.bincount(items, weights, minlength=dataset.catalogue.items)
        self._clicks = counts.astype(np.float32)

    @classmethod
    def trials(cls) -> Mapping[str, Callable[[Dataset], Scorer]]:
        """Return the settings that tuning tries."""
        return {
            f"half_life={half_life}": partial(cls, half_life=half_life)
            for half_life in (0.03, 0.1, 0.3, 1.0, 3.0)
        }

    def score(self, histories: Histories, domain: int) -> Floats:
        """Return (B, N) the decayed clicks of each item of the pool."""
        clicks = self._clicks[self._catalogue.pool(domain)]
        return np.broadcast_to(clicks, (len(histories), len(clicks)))
