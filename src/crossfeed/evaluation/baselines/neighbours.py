"""Neighbours of items: items clicked by the same users.

Dims: B histories, U users, I items, N items of a pool.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy import sparse

from crossfeed.data.dataset import Dataset
from crossfeed.evaluation.baselines.baseline import Baseline, Trials, click_matrix
from crossfeed.scorer import Floats

__all__ = ["ItemKNN"]

_CELLS_AT_ONCE = 20_000_000
"""Similarities held in memory at a time: 160 MB."""


class ItemKNN(Baseline):
    """Score an item by its cosine similarity to the history's items, over all domains.

    score(u, i) = sum_{j in history} n_ij / (sqrt(n_i n_j) + shrinkage) + prior * n_i / max n,
    n_i the users who clicked i, n_ij those who clicked both, max n the largest in the pool.
    Each item
    keeps its `neighbours` most similar ones. The prior orders items that no neighbour reaches.

    Source: Sarwar et al. 2001; shrinkage as in Dacrema et al. 2019. The defaults were chosen once
    on the validation part of Ciao (last-out).
    """

    name = "item-knn"

    def __init__(
        self,
        dataset: Dataset,
        *,
        neighbours: int = 1000,
        shrinkage: float = 100.0,
        prior: float = 0.01,
    ) -> None:
        super().__init__(dataset)
        self._prior = prior
        clicks = click_matrix(dataset)  # (U, I)
        self._similarity = _nearest(clicks, neighbours=neighbours, shrinkage=shrinkage).tocsc()

    @classmethod
    def trials(cls) -> Trials:
        """Return the settings that tuning tries."""
        return {
            f"neighbours={neighbours} shrinkage={shrinkage:.0f}": partial(
                cls, neighbours=neighbours, shrinkage=shrinkage
            )
            for neighbours in (100, 1000)
            for shrinkage in (0.0, 10.0, 30.0, 100.0, 300.0)
        }

    def _score(self, known: sparse.csr_matrix, pool: slice) -> Floats:
        similar = (known @ self._similarity[:, pool]).toarray()  # (B, N)
        popularity = self._popularity[pool]
        return np.asarray(similar + self._prior * popularity / max(popularity.max(initial=0), 1))


def _nearest(clicks: sparse.csr_matrix, *, neighbours: int, shrinkage: float) -> sparse.csr_matrix:
    """Return (I, I) similarities; each column keeps only its largest ones."""
    norms = np.sqrt(np.asarray(clicks.sum(axis=0)).ravel())
    columns, transposed = clicks.tocsc(), clicks.T.tocsr()
    items = clicks.shape[1]
    blocks = []
    width = max(1, _CELLS_AT_ONCE // items)
    for first in range(0, items, width):
        last = min(first + width, items)
        together = (transposed @ columns[:, first:last]).toarray()  # (I, width)
        similarity = together / np.maximum(np.outer(norms, norms[first:last]) + shrinkage, 1e-12)
        similarity[np.arange(first, last), np.arange(last - first)] = 0.0
        kept = min(neighbours, items)
        least = np.partition(similarity, -kept, axis=0)[-kept]
        similarity[similarity < least] = 0.0
        blocks.append(sparse.csc_matrix(similarity))
    return sparse.hstack(blocks).tocsr()
