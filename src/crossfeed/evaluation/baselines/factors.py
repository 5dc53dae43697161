"""Matrix factorisation through `implicit`; users are folded in from their histories.

A scorer sees a history, not a user. So the user's factors are computed from the history and the
items' factors, for known and unknown users alike. Everything runs on one CPU thread, so the same
seed gives the same numbers.

Dims: B histories, U users, I items, N items of a pool, F factors.
"""

from __future__ import annotations

import importlib
from functools import partial
from types import ModuleType

import numpy as np
from scipy import sparse

from crossfeed.data.dataset import Dataset
from crossfeed.errors import MissingExtraError
from crossfeed.evaluation.baselines.baseline import Baseline, Trials, click_matrix
from crossfeed.scorer import Floats

__all__ = ["ALS", "BPR"]


class ALS(Baseline):
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
        regularisation: float = 400.0,
        weight: float = 80.0,
        iterations: int = 15,
        seed: int = 0,
    ) -> None:
        """Fit the items' factors.

        Args:
            dataset: the baseline learns its training part.
            factors: F.
            regularisation: lambda of the source.
            weight: alpha of the source: a click weighs 1 + alpha times as much as no click.
            iterations: sweeps over users and items.
            seed: of the first factors.

        Raises:
            MissingExtraError: the extra `baselines` is not installed.
        """
        als, blas = _package("implicit.cpu.als"), _package("threadpoolctl")
        super().__init__(dataset)
        with blas.threadpool_limits(1, "blas"):
            self._model = als.AlternatingLeastSquares(
                factors=factors,
                regularization=regularisation,
                alpha=1 + weight,
                iterations=iterations,
                random_state=seed,
                num_threads=1,
            )
            self._model.fit(click_matrix(dataset), show_progress=False)

    @classmethod
    def trials(cls) -> Trials:
        """Return the settings that tuning tries; lambda must grow with the weight."""
        return {
            f"weight={weight:.0f} regularisation={value:.0f}": partial(
                cls, weight=weight, regularisation=value
            )
            for weight, values in (
                (1.0, (3.0, 10.0, 30.0)),
                (5.0, (10.0, 30.0)),
                (20.0, (30.0, 100.0)),
                (80.0, (100.0, 400.0, 1200.0)),
            )
            for value in values
        }

    @classmethod
    def check(cls, dataset: Dataset) -> None:
        """Refuse to run without `implicit`.

        Raises:
            MissingExtraError: the extra `baselines` is not installed.
        """
        _package("implicit.cpu.als")

    def _score(self, known: sparse.csr_matrix, pool: slice) -> Floats:
        users = self._model.recalculate_user(np.arange(known.shape[0]), known)  # (B, F)
        return np.asarray(users @ self._model.item_factors[pool].T)


class BPR(Baseline):
    """Bayesian personalised ranking: a click above a draw that was not clicked.

    score(u, i) = x_u . y_i + b_i + popularity * log n_i, n_i the users who clicked i. `implicit`
    draws in proportion to n_i, so its scores estimate how much likelier a click is than popularity
    says (as in noise-contrastive estimation). The last term adds popularity back.

    Fold-in: the mean of the factors of the history's items, mapped to x_u by the least-squares map
    that fits the training users best.

    Source: Rendle et al. 2009 (UAI); for the last term Gutmann & Hyvarinen 2010.
    """

    name = "bpr"

    def __init__(
        self,
        dataset: Dataset,
        *,
        factors: int = 64,
        learning_rate: float = 0.05,
        regularisation: float = 0.03,
        iterations: int = 160,
        popularity: float = 1.0,
        seed: int = 0,
    ) -> None:
        """Fit the items' factors and the map of the fold-in.

        Args:
            dataset: the baseline learns its training part.
            factors: F.
            learning_rate: step size.
            regularisation: weight of the squared factors.
            iterations: passes over the clicks.
            popularity: how much of log n_i is added back; 0 ranks like `implicit` itself.
            seed: of the first factors and of the draws.

        Raises:
            MissingExtraError: the extra `baselines` is not installed.
        """
        bpr = _package("implicit.cpu.bpr")
        super().__init__(dataset)
        clicks = click_matrix(dataset)  # (U, I)
        model = bpr.BayesianPersonalizedRanking(
            factors=factors,
            learning_rate=learning_rate,
            regularization=regularisation,
            iterations=iterations,
            random_state=seed,
            num_threads=1,  # with more threads, the same seed gives other numbers
        )
        model.fit(clicks, show_progress=False)
        # The last of F + 1 learned columns holds the items' biases, and ones for the users.
        self._items = model.item_factors[:, :-1].copy()
        users = np.asarray(clicks.sum(axis=0), np.float32).ravel()
        self._biases = model.item_factors[:, -1] + popularity * np.log(np.maximum(users, 1))
        self._map = _least_squares(_mean(clicks, self._items), model.user_factors[:, :-1])

    @classmethod
    def trials(cls) -> Trials:
        """Return the settings that tuning tries."""
        with_popularity: Trials = {
            f"regularisation={value} iterations={iterations}": partial(
                cls, regularisation=value, iterations=iterations
            )
            for value in (0.01, 0.03, 0.1)
            for iterations in (40, 80, 160)
        }
        return {**with_popularity, "popularity=0": partial(cls, popularity=0.0)}

    @classmethod
    def check(cls, dataset: Dataset) -> None:
        """Refuse to run without `implicit`.

        Raises:
            MissingExtraError: the extra `baselines` is not installed.
        """
        _package("implicit.cpu.bpr")

    def _score(self, known: sparse.csr_matrix, pool: slice) -> Floats:
        users = _mean(known, self._items) @ self._map  # (B, F)
        return np.asarray(users @ self._items[pool].T + self._biases[pool])


def _mean(clicks: sparse.csr_matrix, items: Floats) -> Floats:
    """Return (B, F) the mean of the factors of each row's items; zero if it has none."""
    lengths = np.maximum(np.diff(clicks.indptr), 1).astype(np.float32)
    return np.asarray((clicks @ items) / lengths[:, None])


def _least_squares(means: Floats, users: Floats) -> Floats:
    """Return (F, F) the map from means to the users' learned factors, barely regularised."""
    gram = means.T @ means
    gram[np.diag_indices(len(gram))] += 1e-2  # keeps it solvable with fewer than F users
    return np.asarray(np.linalg.solve(gram, means.T @ users))


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtraError(package="implicit", extra="baselines") from None
