"""Popularity: the same ranking for every user.

An item belongs to one domain, so ranking a pool by all clicks and by the clicks of its domain is
the same: there is no second, "global" popularity.

Dims: B histories, I items, N items of a pool.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy import sparse

from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import ConfigError
from crossfeed.evaluation.baselines.baseline import Baseline, Trials
from crossfeed.scorer import Floats

__all__ = ["Popularity", "RecentPopularity"]


class Popularity(Baseline):
    """Score an item by its training clicks, the same for every user."""

    name = "popularity"

    @classmethod
    def trials(cls) -> Trials:
        """Return the one setting that there is."""
        return {"": cls}

    def _score(self, known: sparse.csr_matrix, pool: slice) -> Floats:
        return np.broadcast_to(self._popularity[pool], (known.shape[0], pool.stop - pool.start))


class RecentPopularity(Popularity):
    """Score an item by its training clicks, each halved for every `half_life` that it is old.

    Ages are counted from the newest click of training, in shares of the time that training spans,
    so that a setting fits a week of news as well as years of ratings. Under the last-out split
    held-out clicks lie all over that span, so that recency says little there.
    """

    name = "recent-popularity"

    def __init__(self, dataset: Dataset, *, half_life: float = 1.0) -> None:
        """Count the clicks.

        Args:
            dataset: its training part is counted.
            half_life: as a share of the time that training spans, above 0; the default was chosen
                on the validation part of Ciao (last-out).

        Raises:
            ConfigError: the half-life is not above 0.
        """
        if not half_life > 0:
            raise ConfigError(f"half_life is {half_life}; it must be above 0")
        super().__init__(dataset)
        events = dataset.events(Part.TRAIN)
        times = dataset.event_time[events].astype(np.float64)
        span = max(float(np.ptp(times)) if len(times) else 0.0, 1.0)
        weights = 0.5 ** ((times.max(initial=0.0) - times) / (span * half_life))
        items = dataset.event_item[events]
        counts = np.bincount(items, weights, minlength=dataset.catalogue.items)
        self._popularity = counts.astype(np.float32)

    @classmethod
    def trials(cls) -> Trials:
        """Return the settings that tuning tries."""
        return {
            f"half_life={half_life}": partial(cls, half_life=half_life)
            for half_life in (0.03, 0.1, 0.3, 1.0, 3.0)
        }
