"""Baselines behind the `Scorer` protocol; each is fitted on the training part alone.

Dims: B histories, U users, I items, N items of a pool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy import sparse

from crossfeed.data.dataset import Dataset, Part
from crossfeed.scorer import Floats, Histories, Scorer

__all__ = ["BASELINES", "ItemKNN", "Popularity"]


class Popularity:
    """Score an item by its training clicks, the same for every user."""

    name = "popularity"

    def __init__(self, dataset: Dataset) -> None:
        self._catalogue = dataset.catalogue
        self._clicks = dataset.item_clicks.astype(np.float32)

    def score(self, histories: Histories, domain: int) -> Floats:
        """Return (B, N) the clicks of each item of the pool."""
        clicks = self._clicks[self._catalogue.pool(domain)]
        return np.broadcast_to(clicks, (len(histories), len(clicks)))


class ItemKNN:
    """Score an item by its cosine similarity to the history's items, over all domains.

    score(u, i) = sum_{j in history} n_ij / (sqrt(n_i n_j) + shrinkage), n_ij the users who clicked
    both; each item keeps its `neighbours` most similar ones.

    Source: Sarwar et al. 2001; shrinkage as in Dacrema et al. 2019.
    """

    name = "item-knn"

    def __init__(self, dataset: Dataset, *, neighbours: int = 200, shrinkage: float = 10.0) -> None:
        self._catalogue = dataset.catalogue
        clicks = _click_matrix(dataset)  # (U, I)
        self._similarity = _nearest(clicks, neighbours=neighbours, shrinkage=shrinkage).tocsc()

    def score(self, histories: Histories, domain: int) -> Floats:
        """Return (B, N) the summed similarity of each item of the pool to the history."""
        pool = self._catalogue.pool(domain)
        shape = (len(histories), self._catalogue.items)
        ones = np.ones(len(histories.items), np.float32)
        taste = sparse.csr_matrix((ones, histories.items, histories.offsets), shape=shape)
        return np.asarray((taste @ self._similarity[:, pool]).todense(), dtype=np.float32)


BASELINES: Mapping[str, Callable[[Dataset], Scorer]] = {
    Popularity.name: Popularity,
    ItemKNN.name: ItemKNN,
}
"""Name -> baseline, built from the dataset it is fitted on."""


def _click_matrix(dataset: Dataset) -> sparse.csr_matrix:
    """Return (U, I) ones where the user clicked the item in the training part."""
    events = dataset.events(Part.TRAIN)
    rows, columns = dataset.users_of(events), dataset.event_item[events]
    ones = np.ones(len(events), np.float32)
    clicks = sparse.csr_matrix((ones, (rows, columns)), (dataset.users, dataset.catalogue.items))
    clicks.data[:] = 1.0  # repeats were summed
    return clicks


def _nearest(clicks: sparse.csr_matrix, *, neighbours: int, shrinkage: float) -> sparse.csr_matrix:
    """Return (I, I) similarities of which each column keeps its largest ones."""
    norms = np.sqrt(np.asarray(clicks.sum(axis=0)).ravel())
    columns = clicks.tocsc()
    blocks = []
    width = max(1, 20_000_000 // max(clicks.shape[1], 1))
    for first in range(0, clicks.shape[1], width):
        last = min(first + width, clicks.shape[1])
        together = np.asarray((clicks.T @ columns[:, first:last]).todense())  # (I, width)
        similarity = together / (np.outer(norms, norms[first:last]) + shrinkage)
        similarity[np.arange(first, last), np.arange(last - first)] = 0.0
        kept = min(neighbours, len(similarity))
        least = np.partition(similarity, -kept, axis=0)[-kept]
        similarity[similarity < least] = 0.0
        blocks.append(sparse.csc_matrix(similarity))
    return sparse.hstack(blocks).tocsr()
