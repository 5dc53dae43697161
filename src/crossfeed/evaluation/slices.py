"""Subsets of the evaluated events with figures of their own.

Dims: B evaluated events, N items of a pool.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from crossfeed.scorer import Ints

__all__ = ["HEAD_SHARE", "MANY", "head_items", "slices"]

MANY = 5
"""Training clicks of an item in the slice `many`; items with fewer are `few`, with none `new`."""
HEAD_SHARE = 0.8
"""Share of a domain's training clicks that its head items have."""


def head_items(clicks: Ints) -> NDArray[np.bool_]:
    """Return (N,) which items of one domain are the most clicked, with `HEAD_SHARE` of its clicks.

    An item is head if the items with more clicks have less than that share together. Items with
    equally many clicks are all head or all tail.
    """
    ordered = np.sort(clicks)[::-1]
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(ordered)])
    more = np.searchsorted(-ordered, -clicks, side="left")  # items with more clicks
    return np.asarray(before[more] < HEAD_SHARE * before[-1])


def slices(
    *, warm: NDArray[np.bool_], head: NDArray[np.bool_], clicks: Ints
) -> Mapping[str, NDArray[np.bool_]]:
    """Return name -> (B,) which events are in the slice.

    Args:
        warm: (B,) whether the event's history holds a click in the target domain.
        head: (B,) whether the held-out item is a head item.
        clicks: (B,) training clicks of the held-out item.
    """
    return {
        "cold": ~warm,
        "warm": warm,
        "head": head,
        "tail": ~head,
        "new": clicks == 0,
        "few": (clicks > 0) & (clicks < MANY),
        "many": clicks >= MANY,
    }
