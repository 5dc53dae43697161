"""Which items may be recommended: decided before the cut, the same for every source.

Dims: I items, N items of a pool.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crossfeed.scorer import Ints
from crossfeed.serving.histories.availability import Unavailable
from crossfeed.serving.ids import Id
from crossfeed.serving.recommend.target import Allowed, Candidates, Target

__all__ = ["allow", "keep_allowed"]


def allow(target: Target, *, unavailable_mask: NDArray[np.bool_], flags: Unavailable) -> Allowed:
    """Decide which items of a domain may be recommended.

    Args:
        target: tells what the user had, and the lists of the query.
        unavailable_mask: (I,) true where an item is not available.
        flags: the same of all items, also of those that the model does not know.
    """
    pool, lists = target.pool, target.lists
    unavailable = unavailable_mask[pool]
    had = _had(target)
    mask = ~unavailable
    mask[had] = False
    for only, _ in lists.only:
        mask &= only[pool]
    if lists.exclude is not None:
        mask &= ~lists.exclude[0][pool]
    return Allowed(mask, had, unavailable, flags)


def keep_allowed(found: Candidates, target: Target, allowed: Allowed) -> Candidates:
    """Return the candidates of a source that the rules allow."""
    positions = found.positions
    if positions is None:  # the whole pool: it is masked where it is ranked
        return found
    kept = allowed.mask[positions]
    if found.ids is not None:
        unknown = np.flatnonzero(positions < 0)
        kept[unknown] = _permitted([found.ids[row] for row in unknown.tolist()], target, allowed)
    if kept.all():
        return found
    rows = np.flatnonzero(kept)
    return Candidates(
        found.source,
        positions[rows],
        None if found.scores is None else found.scores[rows],
        None if found.ids is None else [found.ids[row] for row in rows.tolist()],
    )


def _permitted(item_ids: Sequence[Id], target: Target, allowed: Allowed) -> list[bool]:
    """Return whether items that the model does not know may be recommended."""
    lists, seen, unavailable = target.lists, _seen_ids(target), allowed.flags.items
    return [
        (target.name, item_id) not in unavailable
        and all(item_id in ids for _, ids in lists.only)
        and (lists.exclude is None or item_id not in lists.exclude[1])
        and item_id not in seen
        for item_id in item_ids
    ]


def _had(target: Target) -> Ints:
    """Return the positions that the user had before; none if repeats are welcome."""
    known, pool = target.user.known, target.pool
    if not target.query.exclude_seen:
        return known[:0]
    positions: Ints = known[(known >= pool.start) & (known < pool.stop)] - pool.start
    return positions


def _seen_ids(target: Target) -> frozenset[Id]:
    """Return the ids that the user had before in the domain; none if repeats are welcome."""
    if not target.query.exclude_seen:
        return frozenset()
    return frozenset(event.item_id for event in target.user.events if event.domain == target.name)
