"""Which items of a pool may be recommended; decided before the cut, never after.

Dims: N items of a pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossfeed.scorer import Ints
from crossfeed.serving.history import Id

__all__ = ["Rules", "allowed_items", "shortage"]


@dataclass(frozen=True)
class Rules:
    """What a request says about the items that it wants."""

    exclude_seen: bool = True
    """Leave out what the user had in the domain before."""
    include: Sequence[Id] | None = None
    """Recommend these alone."""
    exclude: Sequence[Id] | None = None
    """Never recommend these."""
    candidates: Sequence[Id] | None = None
    """Rank these instead of the whole pool."""


def allowed_items(
    size: int, *, seen: Ints, include: Ints | None, exclude: Ints, candidates: Ints | None
) -> NDArray[np.bool_]:
    """Return (N,) which positions of the pool may be recommended.

    Args:
        size: N.
        seen: positions that the user had before; empty where repeats are welcome.
        include: positions of the include-only list, or None for no such list.
        exclude: positions never to recommend.
        candidates: positions of the request's candidates, or None for the whole pool.
    """
    allowed = np.ones(size, dtype=np.bool_)
    for only in (include, candidates):
        if only is not None:
            listed = np.zeros(size, dtype=np.bool_)
            listed[only] = True
            allowed &= listed
    allowed[exclude] = False
    allowed[seen] = False
    return allowed


def shortage(found: int, k: int, *, domain: str, size: int, seen: int) -> str | None:
    """Return why there are fewer than k items, or None if there are enough."""
    if found >= k:
        return None
    return (
        f"{found} of {k} items: '{domain}' has {size}, {seen} of them seen by the user; "
        "the rest was filtered by the request"
        if found < size - seen
        else f"{found} of {k} items: '{domain}' has {size}, {seen} of them seen by the user"
    )
