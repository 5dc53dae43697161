"""The base of all baselines: fitting, tuning and reading histories.

Dims: B histories, U users, I items, N items of a pool.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
from scipy import sparse

from crossfeed.data.dataset import Dataset, Part
from crossfeed.scorer import Bools, Floats, Histories, Ints, Moment, Scorer

__all__ = ["Baseline", "Trials", "click_matrix", "known_clicks"]

Trials = Mapping[str, Callable[[Dataset], Scorer]]
"""Description of each setting that tuning tries -> how to fit it."""


class Baseline(ABC):
    """A scorer that its constructor fits on the training part, with defaults.

    It is frozen: it knows nothing of the world after training. A subclass states its formula. This
    class ensures the common rules: repeated items count once, order does not matter, a history
    without any item of training is ranked by popularity, and an item without a training click comes
    last.
    """

    name: ClassVar[str]

    def __init__(self, dataset: Dataset) -> None:
        self._catalogue = dataset.catalogue
        self._popularity = dataset.item_clicks.astype(np.float32)
        """(I,) the scores for a user without any known click."""

    @classmethod
    @abstractmethod
    def trials(cls) -> Trials:
        """Return the settings that tuning tries, at most 10, the defaults among them."""

    @classmethod  # noqa: B027 - most have nothing to refuse
    def check(cls, dataset: Dataset) -> None:
        """Refuse a dataset that the baseline cannot be fitted to."""

    def score(self, histories: Histories, domain: int, moment: Moment) -> Floats:
        """Return (B, N) the score of each item of the domain's pool; higher is better."""
        pool = self._catalogue.pool(domain)
        clicks = known_clicks(histories, self._popularity > 0)
        scores = np.array(self._score(clicks, pool), dtype=np.float32)
        scores[np.diff(clicks.indptr) == 0] = self._popularity[pool]
        known = self._popularity[pool] > 0
        lowest = scores[:, known].min(axis=1, initial=0.0, keepdims=True)
        return np.where(known, scores, lowest - 1)

    @abstractmethod
    def _score(self, known: sparse.csr_matrix, pool: slice) -> Floats:
        """Return (B, N) scores from (B, I) `known_clicks`; finite even for an empty row."""


def click_matrix(dataset: Dataset) -> sparse.csr_matrix:
    """Return (U, I) ones for the items that a user clicked in the training part."""
    events = dataset.events(Part.TRAIN)
    users, items = dataset.users_of(events), dataset.event_item[events].astype(np.int64)
    return _ones(users, items, shape=(dataset.users, dataset.catalogue.items))


def known_clicks(histories: Histories, known: Bools) -> sparse.csr_matrix:
    """Return (B, I) ones for the items of a history that have a training click.

    Args:
        histories: B histories.
        known: (I,) whether an item has one.
    """
    kept = histories.where(known[histories.items])
    return _ones(kept.rows(), kept.items, shape=(len(histories), len(known)))


def _ones(rows: Ints, columns: Ints, *, shape: tuple[int, int]) -> sparse.csr_matrix:
    """Return ones in these cells, each row sorted; a repeated cell is still one."""
    ones = np.ones(len(rows), np.float32)
    matrix = sparse.csr_matrix((ones, (rows, columns)), shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix
