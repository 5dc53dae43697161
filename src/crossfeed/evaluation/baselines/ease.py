"""EASE: a linear model from history to items, in closed form.

Dims: B histories, U users, I items, N items of a pool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from scipy import linalg

from crossfeed.data.dataset import Dataset
from crossfeed.errors import ConfigError
from crossfeed.evaluation.baselines.clicks import click_matrix, history_matrix
from crossfeed.evaluation.baselines.popularity import Popularity
from crossfeed.scorer import Floats, Histories, Scorer

__all__ = ["EASE"]


class EASE:
    """Score an item by the history's weights to it, over all domains.

    B = I - P / diag(P), P = (X'X + lambda I)^-1, X the (U, I) clicks; score = x B. A history that
    holds nothing is ranked by popularity.

    Source: Steck 2019 (WWW), equation 8.
    """

    name = "ease"

    def __init__(
        self, dataset: Dataset, *, regularisation: float = 400.0, largest: int = 30_000
    ) -> None:
        """Fit the weights.

        Args:
            dataset: its training part is what is learned.
            regularisation: lambda.
            largest: most items; the weights are dense, 4 I^2 bytes, and fitting takes three times
                that.

        Raises:
            ConfigError: the dataset has more items.
        """
        items = dataset.catalogue.items
        if items > largest:
            raise ConfigError(
                f"ease holds a dense weight for each pair of {items:,} items, "
                f"{4 * items**2 / 2**30:.1f} GiB; it is allowed for {largest:,} items",
                hint="leave it out, or compare with item-knn",
            )
        self._catalogue = dataset.catalogue
        self._popularity = Popularity(dataset)
        clicks = click_matrix(dataset)
        gram = (clicks.T @ clicks).toarray()
        gram[np.diag_indices(items)] += regularisation
        factor = linalg.cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
        inverse = linalg.cho_solve(
            factor, np.eye(items, dtype=np.float32), overwrite_b=True, check_finite=False
        )
        inverse /= -np.diag(inverse)[None, :]  # column j by its own diagonal entry
        inverse[np.diag_indices(items)] = 0.0
        self._weights = inverse

    @classmethod
    def trials(cls) -> Mapping[str, Callable[[Dataset], Scorer]]:
        """Return the settings that tuning tries."""
        return {
            f"regularisation={value:.0f}": partial(cls, regularisation=value)
            for value in (50.0, 100.0, 200.0, 400.0, 800.0, 1600.0)
        }

    def score(self, histories: Histories, domain: int) -> Floats:
        """Return (B, N) the summed weights of the history's items to each item of the pool."""
        weights = self._weights[:, self._catalogue.pool(domain)]
        scores = np.asarray(history_matrix(histories, self._catalogue) @ weights, np.float32)
        empty = np.diff(histories.offsets) == 0
        scores[empty] = self._popularity.score(histories, domain)[empty]
        return scores
