"""EASE: a linear model from history to items, in closed form.

Dims: B histories, U users, I items, N items of a pool.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy import linalg, sparse

from crossfeed.data.dataset import Dataset
from crossfeed.errors import ConfigError
from crossfeed.evaluation.baselines.baseline import Baseline, Trials, click_matrix
from crossfeed.scorer import Floats

__all__ = ["EASE"]

_LARGEST = 30_000
"""Items: weights of 3.4 GiB, and minutes of one core to fit."""


class EASE(Baseline):
    """Score an item by the history's weights to it, over all domains.

    B = I - P / diag(P), P = (X'X + lambda I)^-1, X the (U, I) clicks; score = x B.

    Source: Steck 2019 (WWW), equation 8.
    """

    name = "ease"

    def __init__(
        self, dataset: Dataset, *, regularisation: float = 400.0, largest: int = _LARGEST
    ) -> None:
        """Fit the weights.

        Args:
            dataset: the baseline learns its training part.
            regularisation: lambda, above 0.
            largest: most items; the weights are dense, 4 I^2 bytes, and fitting takes three times
                that.

        Raises:
            ConfigError: the dataset has more items, or lambda is not above 0.
        """
        if not regularisation > 0:
            raise ConfigError(f"regularisation is {regularisation}; it must be above 0")
        _require_room(dataset.catalogue.items, largest)
        super().__init__(dataset)
        self._weights = _weights(click_matrix(dataset), regularisation)

    @classmethod
    def trials(cls) -> Trials:
        """Return the settings that tuning tries."""
        return {
            f"regularisation={value:.0f}": partial(cls, regularisation=value)
            for value in (50.0, 100.0, 200.0, 400.0, 800.0, 1600.0)
        }

    @classmethod
    def check(cls, dataset: Dataset) -> None:
        """Refuse more items than the default allows.

        Raises:
            ConfigError: the dataset has more.
        """
        _require_room(dataset.catalogue.items, _LARGEST)

    def _score(self, known: sparse.csr_matrix, pool: slice) -> Floats:
        return np.asarray(known @ self._weights[:, pool])


def _require_room(items: int, largest: int) -> None:
    if items > largest:
        raise ConfigError(
            f"ease holds a dense weight for each pair of {items:,} items, "
            f"{4 * items**2 / 2**30:.1f} GiB; it is allowed for {largest:,} items",
            hint="leave it out and compare with item-knn, or allow more: EASE(largest=...)",
        )


def _weights(clicks: sparse.csr_matrix, regularisation: float) -> Floats:
    """Return (I, I) the weight of each row's item to each column's."""
    items = clicks.shape[1]
    gram = (clicks.T @ clicks).toarray()
    gram[np.diag_indices(items)] += regularisation
    factor = linalg.cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
    weights = linalg.cho_solve(
        factor, np.eye(items, dtype=np.float32), overwrite_b=True, check_finite=False
    )
    weights /= -np.diag(weights)[None, :]  # column j by its own diagonal entry
    weights[np.diag_indices(items)] = 0.0
    return np.asarray(weights)
