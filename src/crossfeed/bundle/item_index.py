"""An approximate index over the items of a large domain, used only if its recall is high enough.

The index has inverted lists (faiss IVF), and a search visits only the lists nearest to the user.
How many lists are enough depends on the vectors; without structure, no number is. So export
measures recall with real users. A domain without enough recall is searched exactly.

Dims: B users, N items of a pool, E width of the score's vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfeed.scorer import Floats, Ints

__all__ = ["LEAST_RECALL", "RECALL_AT", "BuiltIndex", "ItemIndex", "build_index"]

LEAST_RECALL = 0.99
RECALL_AT = 100
"""How many of the truly best items a measurement of recall looks for."""

_PROBES = (4, 8, 16, 32, 64, 128, 256)
_LARGEST_SHARE = 0.25
"""Largest share of lists to visit; beyond it an index saves too little."""


@dataclass(frozen=True)
class BuiltIndex:
    """An index and its measured recall."""

    lists: int
    probes: int
    """Lists that a search visits."""
    recall: float
    """Share of the best `RECALL_AT` items that it finds, mean over the users it was measured on."""
    data: bytes | None
    """The index as faiss writes it; None if its recall is too low."""


def build_index(vectors: Floats, biases: Floats, users: Floats) -> BuiltIndex:
    """Build an index with the fewest probes that give enough recall.

    Args:
        vectors: (N, E) the items' vectors.
        biases: (N,) the items' biases.
        users: (B, E) vectors of real users, at least one, to measure recall with.
    """
    import faiss

    items, asked = _with_biases(vectors, biases), _with_ones(users)
    lists = max(1, round(2 * len(items) ** 0.5))
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(items.shape[1]), items.shape[1], lists, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.niter, index.cp.seed = 10, 0
    index.train(items)
    index.add(items)
    best = _best(items, asked, min(RECALL_AT, len(items)))
    recall, probes = 0.0, 1
    for probes in _PROBES:
        recall = _recall(index, asked, best, probes)
        if recall >= LEAST_RECALL or probes > _LARGEST_SHARE * lists:
            break
    good = recall >= LEAST_RECALL and probes <= _LARGEST_SHARE * lists
    data = faiss.serialize_index(index).tobytes() if good else None
    return BuiltIndex(lists, probes, recall, data)


class ItemIndex:
    """An index of one domain, ready to be searched by many threads."""

    def __init__(self, file: Path, *, probes: int) -> None:
        """Map an index that `build_index` made, so that all processes share it."""
        import faiss

        faiss.omp_set_num_threads(1)  # one search is short, and several run at once
        self._faiss = faiss
        self._index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        self._probes = probes

    def search(self, user: Floats, allowed: NDArray[np.bool_], k: int) -> Ints:
        """Return the positions of about the k best allowed items, in any order; fewer if not found.

        Args:
            user: (E,) the user's vector.
            allowed: (N,) the items to search; the search itself skips others.
            k: how many.
        """
        faiss = self._faiss
        bits = np.packbits(allowed, bitorder="little")
        chosen = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
        how = faiss.SearchParametersIVF(sel=chosen, nprobe=self._probes)
        _, [found] = self._index.search(_with_ones(user[None]), k, params=how)
        positions: Ints = found[found >= 0].astype(np.int64)
        return positions


def _recall(index: Any, asked: Floats, best: Ints, probes: int) -> float:  # Any: faiss is untyped
    index.nprobe = probes
    _, found = index.search(asked, best.shape[1])
    hits = [np.isin(one, other).sum() for one, other in zip(best, found, strict=True)]
    return float(np.sum(hits) / best.size)


def _best(items: Floats, asked: Floats, k: int) -> Ints:
    """Return (B, k) the truly best items of each user, in any order."""
    import faiss

    _, found = faiss.knn(asked, items, k, metric=faiss.METRIC_INNER_PRODUCT)
    return np.asarray(found, dtype=np.int64)


def _with_biases(vectors: Floats, biases: Floats) -> Floats:
    """Return (N, E + 1) vectors whose product with `_with_ones` of a user is the score."""
    return np.ascontiguousarray(np.column_stack([vectors, biases]), dtype=np.float32)


def _with_ones(users: Floats) -> Floats:
    """Return (B, E + 1)."""
    return np.ascontiguousarray(
        np.column_stack([users, np.ones(len(users), np.float32)]), dtype=np.float32
    )
