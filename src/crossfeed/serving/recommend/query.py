"""One request for recommendations, wherever it came from: HTTP, Python or the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from crossfeed.serving.histories.history import Event
from crossfeed.serving.ids import Id

__all__ = ["DEFAULT_K", "MAX_K", "MOST_EVENTS", "SOURCES", "PastEvents", "Query", "Source"]

DEFAULT_K = 10
MAX_K = 1000

MOST_EVENTS = 10_000
"""The newest events of a user that an answer takes into account, and the most that a request may
bring: a history without end would make every answer slow."""

Source = Literal["pool", "candidates", "generator"]
"""All items of the domain; the list in the request; items drawn by the generator."""

SOURCES: tuple[Source, ...] = get_args(Source)

_POOL: frozenset[Source] = frozenset(["pool"])
_CANDIDATES: frozenset[Source] = frozenset(["candidates"])

PastEvents = Sequence[Event | Mapping[str, object]]
"""Events in any order; mappings have item_id, domain and, if order matters, timestamp."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """The user, the domains with their numbers of items, and the items that may be recommended.

    Exactly one of `user_id` and `history` is given.
    """

    domains: Mapping[str, int]
    """Target domain -> how many of its items, 1,000 together at most."""
    user_id: Id | None = None
    """A user whose history is known."""
    history: PastEvents | None = None
    """The user's events, for a user that no store knows."""
    exclude_seen: bool = True
    """Leave out what the user had in the domain before."""
    include: Sequence[Id] | None = None
    """Recommend these item ids alone."""
    exclude: Sequence[Id] | None = None
    """Never recommend these item ids."""
    candidates: Sequence[Id] | None = None
    """Rank these item ids instead of the domain's pool."""
    sources: Sequence[Source] | None = None
    """Where items come from, all of these together; by default the candidates where there are any,
    else the pool."""

    @property
    def drawn_from(self) -> frozenset[Source]:
        """Return where items come from."""
        if self.sources is not None:
            return frozenset(self.sources)
        return _POOL if self.candidates is None else _CANDIDATES
