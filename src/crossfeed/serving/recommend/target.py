"""One domain of a query in the terms of the model, and what sources find for it.

Dims: I items, N items of a pool, E width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossfeed.scorer import Floats, Ints
from crossfeed.serving.histories.availability import Unavailable
from crossfeed.serving.histories.history import Event
from crossfeed.serving.ids import Id
from crossfeed.serving.recommend.query import Query

__all__ = ["Allowed", "Candidates", "FindCandidates", "Lists", "Target", "User"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Lists:
    """The lists of item ids in a query, looked up once for all its domains."""

    only: tuple[tuple[Mask, Set[Id]], ...] = ()
    """Nothing is recommended outside of any of these: (I,) its items, and its ids."""
    exclude: tuple[Mask, Set[Id]] | None = None
    """Items that are never recommended."""
    candidates: Mask | None = None
    """(I,) the items to rank instead of the pool."""


@dataclass(frozen=True, slots=True)
class User:
    """A user's events, and the known items among them."""

    events: Sequence[Event]
    """The user's events, oldest first."""
    known: Ints
    """The items of those events that the model knows."""


@dataclass(frozen=True, slots=True)
class Target:
    """One domain of a query, with its user."""

    query: Query
    lists: Lists
    domain: int
    """Its index."""
    name: str
    pool: slice
    """The N items of the domain that can be scored."""
    k: int
    user: User
    vector: Floats | None = None
    """(E,) the user's vector in the domain; None if nothing usable is known of the user."""
    place: int = 0
    """Which of the queries answered together it belongs to, for those who time the stages."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Which items of a pool the rules allow, and why others are left out."""

    mask: Mask
    """(N,)"""
    had: Ints
    """Positions that the user had before, each as often as they had it."""
    unavailable_mask: Mask
    """(N,) true where an item is not available."""
    flags: Unavailable
    """The same of all items, also of those that the model does not know."""

    def without(self, positions: Ints) -> Allowed:
        """Return the same without some positions."""
        mask = self.mask.copy()
        mask[positions] = False
        return Allowed(mask, self.had, self.unavailable_mask, self.flags)


@dataclass(frozen=True, slots=True)
class Candidates:
    """The items that one source found."""

    source: str
    """The name of the source in the answer."""
    positions: Ints | None
    """Positions in the pool; None is the whole pool, -1 an item that the model does not know."""
    scores: NDArray[np.floating] | None = None
    """Scores of a source that ranks its own items, best first; else the model scores them."""
    ids: Sequence[Id] | None = None
    """The ids of the items; needed only if the model does not know all of them."""


FindCandidates = Callable[[Target, Allowed], Candidates]
"""A source: it looks for items among the allowed ones. The rules check what it finds once more, so
that no source can break them."""
