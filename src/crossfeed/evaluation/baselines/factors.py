"""Matrix factorisation through `implicit`; users are folded in from their histories.

A scorer sees a history, not a user, so the user's factors are computed from the history against the
items' factors, for users of training and unknown ones alike.

Dims: B histories, U users, I items, N items of a pool, F factors.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType

import numpy as np

from crossfeed.data.dataset import Dataset
from crossfeed.errors import MissingExtraError
from crossfeed.evaluation.baselines.clicks import click_matrix, history_matrix
from crossfeed.evaluation.baselines.popularity import Popularity
from crossfeed.scorer import Floats, Histories, Scorer

__all__ = ["ALS", "BPR"]


class ALS:
    """Weighted least squares, alternating between users and items.

    Fold-in: the user's own least-squares problem, solved exactly.

    Source: Hu et al. 2008 (ICDM), equations 3-5.
    """

    name = "als"

    def __init__(
        self,
        dataset: Dataset,
        *,
        factors: int = 64,
        regularisation: float = 10.0,
        weight: float = 10.0,
        iterations: int = 15,
        seed: int = 0,
    ) -> None:
        """Fit the items' factors.

        Args:
            dataset: its training part is what is learned.
            factors: F.
            regularisation: lambda of the source.
            weight: alpha of the source: a click counts 1 + alpha times what no click counts.
            iterations: sweeps over users and items.
            seed: of the first factors.
        """
        self._catalogue = dataset.catalogue
        self._popularity = Popularity(dataset)
        with warnings.catch_warnings():
            # BLAS has the threads that the process gave it; implicit would have it have one.
            warnings.filterwarnings("ignore", message="OpenBLAS is configured", module="implicit")
            self._model = _implicit("als").AlternatingLeastSquares(
                factors=factors,
                regularization=regularisation,
                alpha=1 + weight,
                iterations=iterations,
                random_state=seed,
                num_threads=1,
            )
            self._model.fit(click_matrix(dataset), show_progress=False)

    @classmethod
    def trials(cls) -> Mapping[str, Callable[[Dataset], Scorer]]:
        """Return the settings that tuning tries."""
        return {
            f"factors={factors} regularisation={value:.0f}": partial(
                cls, factors=factors, regularisation=value
            )
            for factors in (32, 128)
            for value in (1.0, 10.0, 50.0)
        }

    def score(self, histories: Histories, domain: int) -> Floats:
        """Return (B, N) the products of the user's factors with those of the pool's items."""
        taste = history_matrix(histories, self._catalogue)
        taste.data[:] = 1.0  # as in training, where a repeat counts once
        users = self._model.recalculate_user(np.arange(len(histories)), taste)  # (B, F)
        scores = users @ self._model.item_factors[self._catalogue.pool(domain)].T
        return _or_popular(scores, histories, self._popularity, domain)


class BPR:
    """Bayesian personalised ranking: a click above a draw that was not clicked.

    Fold-in: the mean of the factors of the history's items.

    Source: Rendle et al. 2009 (UAI).
    """

    name = "bpr"

    def __init__(
        self,
        dataset: Dataset,
        *,
        factors: int = 64,
        learning_rate: float = 0.05,
        regularisation: float = 0.01,
        iterations: int = 100,
        seed: int = 0,
    ) -> None:
        """Fit the items' factors.

        Args:
            dataset: its training part is what is learned.
            factors: F.
            learning_rate: step size.
            regularisation: weight of the squared factors.
            iterations: passes over the clicks.
            seed: of the first factors and of the draws.
        """
        self._catalogue = dataset.catalogue
        self._popularity = Popularity(dataset)
        model = _implicit("bpr").BayesianPersonalizedRanking(
            factors=factors,
            learning_rate=learning_rate,
            regularization=regularisation,
            iterations=iterations,
            random_state=seed,
            num_threads=1,  # more threads race, and the same seed would give other numbers
        )
        model.fit(click_matrix(dataset), show_progress=False)
        learned = np.asarray(model.item_factors, np.float32)  # (I, F + 1), the last is the bias
        self._items, self._biases = learned[:, :-1], learned[:, -1]

    @classmethod
    def trials(cls) -> Mapping[str, Callable[[Dataset], Scorer]]:
        """Return the settings that tuning tries."""
        return {
            f"learning_rate={rate} regularisation={value}": partial(
                cls, learning_rate=rate, regularisation=value
            )
            for rate in (0.02, 0.1)
            for value in (0.001, 0.01, 0.1)
        }

    def score(self, histories: Histories, domain: int) -> Floats:
        """Return (B, N) products of the mean of the history's factors with the pool's, and bias."""
        taste = history_matrix(histories, self._catalogue)
        lengths = np.maximum(np.diff(histories.offsets), 1).astype(np.float32)
        users = (taste @ self._items) / lengths[:, None]
        pool = self._catalogue.pool(domain)
        scores = users @ self._items[pool].T + self._biases[pool]
        return _or_popular(scores, histories, self._popularity, domain)


def _or_popular(
    scores: Floats, histories: Histories, popularity: Popularity, domain: int
) -> Floats:
    """Return the scores, with those of popularity where a history holds nothing."""
    empty = (np.diff(histories.offsets) == 0)[:, None]
    return np.where(empty, popularity.score(histories, domain), scores).astype(np.float32)


def _implicit(module: str) -> ModuleType:
    try:
        return importlib.import_module(f"implicit.{module}")
    except ImportError:
        raise MissingExtraError(package="implicit", extra="baselines") from None
