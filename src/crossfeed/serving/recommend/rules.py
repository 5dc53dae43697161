"""Which items of a pool may be recommended; decided before the cut, never after.

Dims: N items of a pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from crossfeed.scorer import Ints
from crossfeed.serving.ids import Id

__all__ = ["SOURCES", "Choice", "Rules", "Source", "choose", "listed_in", "shortage"]

Source = Literal["pool", "candidates", "generator"]
"""All items of the domain; the list in the request; items drawn by the generator."""

SOURCES: tuple[Source, ...] = get_args(Source)


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
    sources: Sequence[Source] | None = None
    """Where items come from, all of these together; by default the candidates where there are any,
    else the pool."""

    @property
    def drawn_from(self) -> frozenset[Source]:
        """Return where items come from."""
        if self.sources is not None:
            return frozenset(self.sources)
        return frozenset(["pool" if self.candidates is None else "candidates"])

    @property
    def only(self) -> list[Sequence[Id]]:
        """Return the lists outside of which nothing is recommended."""
        alone = self.candidates if self.drawn_from == {"candidates"} else None
        return [ids for ids in (self.include, alone) if ids is not None]


@dataclass(frozen=True)
class Choice:
    """Which positions of a pool may be recommended, and how many may not for which reason."""

    allowed: NDArray[np.bool_]
    """(N,)"""
    had: Ints
    """Positions that the user had before, each as often as they had it."""
    missing: NDArray[np.bool_]
    """(N,) true where an item is not available."""

    @property
    def seen(self) -> int:
        """Return how many are left out because the user had them before."""
        return len(np.unique(self.had))

    @property
    def unavailable(self) -> int:
        """Return how many of the others are left out because they are not available."""
        missing = np.count_nonzero(self.missing)
        return int(missing - np.count_nonzero(self.missing[np.unique(self.had)]))

    @property
    def filtered(self) -> int:
        """Return how many the request's lists leave out of the rest."""
        left_out = len(self.allowed) - int(np.count_nonzero(self.allowed))
        return left_out - self.seen - self.unavailable


def choose(
    *,
    had: Ints,
    missing: NDArray[np.bool_],
    only: Sequence[Ints],
    exclude: Ints,
) -> Choice:
    """Choose the positions of a pool that may be recommended.

    Args:
        had: positions that the user had before; empty where repeats are welcome.
        missing: (N,) true where an item is not available.
        only: positions of each list outside of which nothing is recommended.
        exclude: positions never to recommend.
    """
    allowed = ~missing
    allowed[had] = False
    for positions in only:
        listed = np.zeros(len(allowed), dtype=np.bool_)
        listed[positions] = True
        allowed &= listed
    allowed[exclude] = False
    return Choice(allowed, had, missing)


def listed_in(rules: Rules, item_id: Id) -> bool:
    """Return whether the lists of a request allow an item, whether or not the model knows it."""
    return item_id not in (rules.exclude or ()) and all(item_id in ids for ids in rules.only)


def shortage(
    choice: Choice, *, found: int, k: int, domain: str, not_offered: int = 0
) -> str | None:
    """Return why there are fewer than k items, or None if there are enough.

    Args:
        choice: what the rules leave of the domain's pool.
        found: how many items there are.
        k: how many there should be.
        domain: the target domain.
        not_offered: how many that the rules allow were left out by the domain's fallback.
    """
    if found >= k:
        return None
    parts = [f"'{domain}' has {len(choice.allowed)}"]
    for count, why in (
        (choice.seen, "of them seen by the user"),
        (choice.unavailable, "not available"),
        (choice.filtered, "filtered by the request"),
        (not_offered, "not in its fallback"),
    ):
        if count:
            parts.append(f"{count} {why}")
    return f"{found} of {k} items: {', '.join(parts)}"
