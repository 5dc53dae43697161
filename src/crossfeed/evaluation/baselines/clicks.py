"""Clicks as sparse matrices, which the linear baselines are fitted on and asked with.

Dims: B histories, U users, I items.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from crossfeed.data.dataset import Dataset, Part
from crossfeed.scorer import Catalogue, Histories

__all__ = ["click_matrix", "history_matrix"]


def click_matrix(dataset: Dataset) -> sparse.csr_matrix:
    """Return (U, I) ones where the user clicked the item in the training part."""
    events = dataset.events(Part.TRAIN)
    rows, columns = dataset.users_of(events), dataset.event_item[events]
    ones = np.ones(len(events), np.float32)
    clicks = sparse.csr_matrix((ones, (rows, columns)), (dataset.users, dataset.catalogue.items))
    clicks.data[:] = 1.0  # repeats were summed
    return clicks


def history_matrix(histories: Histories, catalogue: Catalogue) -> sparse.csr_matrix:
    """Return (B, I) how often each history holds each item."""
    ones = np.ones(len(histories.items), np.float32)
    shape = (len(histories), catalogue.items)
    matrix = sparse.csr_matrix((ones, histories.items, histories.offsets), shape=shape)
    matrix.sum_duplicates()
    return matrix
