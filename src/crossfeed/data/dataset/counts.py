"""Counts of a dataset's events by domain, in one pass over the mapped files.

Dims: D domains, I items, U users.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossfeed.data.dataset import Part
from crossfeed.data.dataset.hashing import EVENT_ARRAYS
from crossfeed.scorer import Ints

__all__ = ["EventCounts", "count_events"]

_BLOCK_EVENTS = 1 << 20


@dataclass(frozen=True)
class EventCounts:
    """Events and users of each domain."""

    events: Ints
    """(D, parts) events"""
    untrained: Ints
    """(D,) validation and test events on untrained items"""
    users: Ints
    """(D,) users with an event in the domain"""


def count_events(folder: Path, *, domains: int, trained: NDArray[np.bool_]) -> EventCounts:
    """Count the events of a dataset's folder.

    Args:
        folder: of the dataset.
        domains: D.
        trained: (I,) whether each item is trained.
    """
    arrays = {name: np.load(folder / "events" / f"{name}.npy", "r") for name in EVENT_ARRAYS}
    counts = EventCounts(
        events=np.zeros((domains, len(Part)), np.int64),
        untrained=np.zeros(domains, np.int64),
        users=np.zeros(domains, np.int64),
    )
    for first, last in _user_blocks(arrays["user_offsets"]):
        offsets = arrays["user_offsets"][first : last + 1]
        events = slice(offsets[0], offsets[-1])
        domain, part = arrays["domain"][events], arrays["part"][events]
        cells = np.bincount(domain * np.int64(len(Part)) + part, minlength=counts.events.size)
        counts.events[:] += cells.reshape(counts.events.shape)
        evaluated = (part == Part.VALIDATION) | (part == Part.TEST)
        missed = domain[evaluated & ~trained[arrays["item"][events]]]
        counts.untrained[:] += np.bincount(missed, minlength=domains)
        user = np.repeat(np.arange(last - first), np.diff(offsets))
        counts.users[:] += np.bincount(_distinct(user, domain, domains), minlength=domains)
    return counts


def _user_blocks(offsets: Ints) -> Iterator[tuple[int, int]]:
    """Yield ranges of users, each with about `_BLOCK_EVENTS` events or of one user."""
    first = 0
    while first < len(offsets) - 1:
        last = int(np.searchsorted(offsets, offsets[first] + _BLOCK_EVENTS, side="right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last


def _distinct(user: Ints, domain: Ints, domains: int) -> Ints:
    """Return the domain of each (user, domain) pair, once."""
    pairs = user * np.int64(domains) + domain
    if not len(pairs) or (user[-1] + 1) * domains > 16 * _BLOCK_EVENTS:
        return np.unique(pairs) % domains
    seen = np.zeros((user[-1] + 1) * domains, np.bool_)
    seen[pairs] = True
    return np.flatnonzero(seen) % domains
