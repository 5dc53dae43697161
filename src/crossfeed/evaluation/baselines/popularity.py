"""Popularity, frozen and live: the same ranking for every user.

An item belongs to one domain, so global popularity and popularity per domain rank a pool the same.

Dims: B histories, I items, N items of a pool.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np
from scipy import sparse

from crossfeed.data.dataset import Dataset
from crossfeed.data.demand import HALF_LIVES
from crossfeed.errors import ConfigError
from crossfeed.evaluation.baselines.baseline import Baseline, Trials
from crossfeed.scorer import Floats, Histories, Moment

__all__ = ["LivePopularity", "Popularity"]


class Popularity(Baseline):
    """Score an item by its training clicks, the same for every user."""

    name = "popularity"

    @classmethod
    def trials(cls) -> Trials:
        """Return the only setting."""
        return {"": cls}

    def _score(self, known: sparse.csr_matrix, pool: slice) -> Floats:
        return np.broadcast_to(self._popularity[pool], (known.shape[0], pool.stop - pool.start))


class LivePopularity:
    """Score an item by everybody's clicks before the moment, weighted by age.

    A click's weight halves with every half-life of its age. Ties are ranked by all clicks before.

    Source: recency of popularity as in Ji et al. 2020 (SIGIR), "DecayPop".
    """

    name: ClassVar[str] = "live-popularity"

    def __init__(self, dataset: Dataset, *, half_life_hours: int = 168) -> None:
        """Choose a half-life; nothing is fitted.

        Raises:
            ConfigError: the half-life is not one of demand's.
        """
        hours = [half_life // 3_600_000 for half_life in HALF_LIVES]
        if half_life_hours not in hours:
            raise ConfigError(f"half_life_hours = {half_life_hours}; it is one of {hours}")
        self._column = hours.index(half_life_hours)

    @classmethod
    def trials(cls) -> Trials:
        """Return the settings that tuning tries."""
        return {
            f"half_life_hours={hours}": partial(cls, half_life_hours=hours)
            for hours in (half_life // 3_600_000 for half_life in HALF_LIVES)
        }

    @classmethod
    def check(cls, dataset: Dataset) -> None:
        """Refuse nothing."""

    def score(self, histories: Histories, domain: int, moment: Moment) -> Floats:
        """Return (B, N) the score of each item of the domain's pool; higher is better."""
        demand = moment.demand(domain)
        scores = demand[:, self._column] + 1e-3 * demand[:, len(HALF_LIVES)]
        return np.repeat(scores[None].astype(np.float32), len(histories), axis=0)
