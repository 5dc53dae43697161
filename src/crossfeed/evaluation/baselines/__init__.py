"""Baselines behind the `Scorer` protocol; each is fitted on the training part alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from crossfeed.data.dataset import Dataset
from crossfeed.evaluation.baselines.ease import EASE
from crossfeed.evaluation.baselines.factors import ALS, BPR
from crossfeed.evaluation.baselines.neighbours import ItemKNN
from crossfeed.evaluation.baselines.popularity import Popularity, RecentPopularity
from crossfeed.scorer import Scorer

__all__ = [
    "ALS",
    "BASELINES",
    "BPR",
    "EASE",
    "Baseline",
    "ItemKNN",
    "Popularity",
    "RecentPopularity",
]


class Baseline(Protocol):
    """A class of baselines: fitted when it is made, with defaults that need no thought."""

    def __call__(self, dataset: Dataset) -> Scorer:
        """Fit the baseline, with its defaults, on the training part."""

    def trials(self) -> Mapping[str, Callable[[Dataset], Scorer]]:
        """Return the settings that tuning tries, at most 10: words for them -> how to fit."""


BASELINES: Mapping[str, Baseline] = {
    Popularity.name: Popularity,
    RecentPopularity.name: RecentPopularity,
    ItemKNN.name: ItemKNN,
    EASE.name: EASE,
    ALS.name: ALS,
    BPR.name: BPR,
}
"""Name -> baseline, built from the dataset it is fitted on."""
