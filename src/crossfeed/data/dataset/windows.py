"""Training clicks in windows of time: what everybody did before a window is known in it.

Demand as of every single click would cost a training too much. So the clicks of a domain are cut
into windows of consecutive clicks, and the time of a window's first click is the moment of all.

Dims: n clicks, W windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossfeed.data.dataset import Dataset
from crossfeed.scorer import Ints

__all__ = ["Windows", "windows_of"]

_MOST = 64
"""Most clicks of a window."""
_LEAST = 8
"""Clicks of a window that small domains have at least, unless a batch is smaller."""


@dataclass(frozen=True)
class Windows:
    """Clicks by domain, in time order, cut into windows."""

    events: Ints
    """(n,) indices of the clicks, window by window."""
    offsets: Ints
    """(W + 1,) where each window begins."""
    domains: Ints
    """(W,) the domain of each window."""
    times: Ints
    """(W,) the moment of each window, in milliseconds since 1970."""

    def __len__(self) -> int:
        return len(self.domains)


def windows_of(
    dataset: Dataset, events: Ints, *, rng: np.random.Generator, most: int = _MOST
) -> Windows:
    """Cut clicks into windows; the first one of each domain has a random length.

    Args:
        dataset: the data.
        events: (n,) indices of clicks, at least one.
        rng: the source of the lengths.
        most: most clicks of a window.
    """
    domains, times = dataset.event_domain[events].astype(np.int64), dataset.event_time[events]
    order = np.lexsort((times, domains))
    events, domains, times = events[order], domains[order], times[order]
    counts = np.bincount(domains, minlength=len(dataset.catalogue.domains))
    sizes = np.minimum(np.clip(counts // _MOST, _LEAST, _MOST), most)
    phases = rng.integers(sizes)
    places = np.arange(len(events)) - np.repeat(np.cumsum(counts) - counts, counts)
    numbers = (places + phases[domains]) // sizes[domains]
    begins = np.flatnonzero(np.diff(numbers, prepend=-1) | np.diff(domains, prepend=-1))
    offsets = np.append(begins, len(events))
    return Windows(events, offsets, domains[begins], times[begins])
