"""The best items of a pool: exact search.

Dims: N items of a pool, E width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crossfeed.scorer import Floats, Ints

__all__ = ["cosine", "top_k"]


def top_k(scores: Floats, allowed: NDArray[np.bool_], k: int) -> Ints:
    """Return the positions of the k best allowed items, best first.

    Args:
        scores: (N,) higher is better.
        allowed: (N,) the items that take part.
        k: how many; fewer come back only where fewer are allowed.

    Returns:
        Positions; of equal scores the lower position comes first, so that an answer repeats.
    """
    positions = np.flatnonzero(allowed)
    values = scores[positions]
    if len(values) > k:
        # All that tie with the k-th best stay in, so that the order among them decides.
        kept = values >= np.partition(values, len(values) - k)[len(values) - k]
        positions, values = positions[kept], values[kept]
    return positions[np.lexsort((positions, -values))[:k]]


def cosine(vectors: Floats, vector: Floats) -> Floats:
    """Return (N,) the cosine of each of `vectors` (N, E) with `vector` (E,); 0 for a zero one."""
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(vector)
    return np.asarray(vectors @ vector / np.maximum(norms, 1e-12), dtype=np.float32)
