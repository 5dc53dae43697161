"""Baselines behind the `Scorer` protocol; each is fitted on the training part only.

`live-popularity` and `demand` know what everybody did before a moment; the others are frozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from crossfeed.data.dataset import Dataset
from crossfeed.errors import ConfigError
from crossfeed.evaluation.baselines.baseline import Baseline
from crossfeed.evaluation.baselines.demand import LearnedDemand
from crossfeed.evaluation.baselines.ease import EASE
from crossfeed.evaluation.baselines.factors import ALS, BPR
from crossfeed.evaluation.baselines.neighbours import ItemKNN
from crossfeed.evaluation.baselines.popularity import LivePopularity, Popularity

__all__ = [
    "ALS",
    "BASELINES",
    "BPR",
    "EASE",
    "Baseline",
    "ItemKNN",
    "LearnedDemand",
    "LivePopularity",
    "Popularity",
    "require_baselines",
]


BASELINES: Mapping[str, type[Baseline | LivePopularity | LearnedDemand]] = {
    Popularity.name: Popularity,
    LivePopularity.name: LivePopularity,
    LearnedDemand.name: LearnedDemand,
    ItemKNN.name: ItemKNN,
    EASE.name: EASE,
    ALS.name: ALS,
    BPR.name: BPR,
}
"""Name -> baseline, built from the dataset it is fitted on."""


def require_baselines(names: Iterable[str], dataset: Dataset) -> None:
    """Refuse, before any work, baselines that cannot be fitted.

    Raises:
        ConfigError: one is unknown, or the dataset is too large for it.
        MissingExtraError: one needs a package that is not installed.
    """
    for name in names:
        if name not in BASELINES:
            raise ConfigError(f"baseline '{name}' is unknown; it is one of: {', '.join(BASELINES)}")
        BASELINES[name].check(dataset)
