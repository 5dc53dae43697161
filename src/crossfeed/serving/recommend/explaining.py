"""Explanations of an answer: today, why it has fewer items than requested."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from crossfeed.serving.recommend.ranking import Ranked
from crossfeed.serving.recommend.target import Allowed, Target

__all__ = ["Explain", "shortage"]

Explain = Callable[[Target, Allowed, Ranked], str | None]
"""Says something about the items of one domain, or nothing."""


def shortage(target: Target, allowed: Allowed, ranked: Ranked) -> str | None:
    """Return why there are fewer than k items, or None if there are enough."""
    if len(ranked.items) >= target.k:
        return None
    seen = np.unique(allowed.had)
    unavailable = int(np.count_nonzero(allowed.unavailable_mask))
    unavailable -= int(np.count_nonzero(allowed.unavailable_mask[seen]))
    left = int(np.count_nonzero(allowed.mask))
    parts = [f"'{target.name}' has {len(allowed.mask)}"]
    for count, why in (
        (len(seen), "of them seen by the user"),
        (unavailable, "not available"),
        (len(allowed.mask) - left - len(seen) - unavailable, "filtered by the request"),
        (left - ranked.known, "not in its fallback"),
    ):
        if count:
            parts.append(f"{count} {why}")
    return f"{len(ranked.items)} of {target.k} items: {', '.join(parts)}"
