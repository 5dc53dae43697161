"""The ranks of held-out clicks in a pool, and the items at the head of the lists.

Ties are resolved in expectation, so the order of the catalogue cannot leak into a figure.

Dims: B events, N items of a pool, S pairs of an event and an item seen before it,
L entries of lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossfeed.scorer import Floats, Histories, Ints

__all__ = ["Block", "Ranks", "Seen", "TopLists", "negative_log_likelihood", "rank", "top_lists"]

Values = NDArray[np.float64]

_GROUP = 8
"""Items per group; the search for the head of a list first compares the best of each group."""

_GROUPS_PER_PLACE = 4
"""Fewest groups per place of a list if comparing groups first is to save time."""


@dataclass(frozen=True)
class Seen:
    """The items of a pool in the histories of B events: each pair once, by row."""

    rows: Ints
    """(S,) the event."""
    columns: Ints
    """(S,) the item's column in the pool."""

    @classmethod
    def of(cls, histories: Histories, pool: slice) -> Seen:
        """Return the items of `pool` that each history holds."""
        items = pool.stop - pool.start
        rows = histories.rows()
        inside = np.flatnonzero((histories.items >= pool.start) & (histories.items < pool.stop))
        pairs = np.sort(rows[inside] * items + histories.items[inside] - pool.start)
        repeated = np.concatenate([[False], pairs[1:] == pairs[:-1]])[: len(pairs)]
        return cls(*np.divmod(pairs[~repeated], max(items, 1)))


@dataclass(frozen=True)
class Block:
    """The scores of B events over one pool, without the seen items."""

    scores: Floats
    """(B, N) higher is better; -inf if the item was seen, does not exist yet, or its score is not
    a number."""
    own: Floats
    """(B,) score of the held-out click; -inf if it has none."""
    missing: NDArray[np.bool_]
    """(B,) whether the held-out item did not exist yet."""
    again: NDArray[np.bool_]
    """(B,) whether the held-out item was seen before; it is still ranked."""
    out: Ints
    """(B,) items of the pool that were seen or do not exist yet, the held-out one included."""
    warm: NDArray[np.bool_]
    """(B,) whether any item of the pool was seen."""

    @classmethod
    def of(
        cls, scores: Floats, targets: Ints, seen: Seen, exists: NDArray[np.bool_] | None = None
    ) -> Block:
        """Take out the seen items, and those that do not exist yet.

        Args:
            scores: (B, N) higher is better; not changed.
            targets: (B,) column of the held-out item; -1 for none.
            seen: pairs that are not ranked, except the targets.
            exists: (B, N) or (N,) whether an item exists; None if all do.
        """
        rows = np.arange(len(targets))
        ranked = np.ones(scores.shape, np.bool_)
        if exists is not None:
            ranked &= exists
        kept = np.fmax(scores, -np.inf)  # a copy with -inf for NaN
        missing, own = targets < 0, np.full(len(rows), -np.inf, kept.dtype)
        missing[~missing] = ~ranked[rows[~missing], targets[~missing]]
        own[~missing] = kept[rows[~missing], targets[~missing]]
        ranked[seen.rows, seen.columns] = False
        kept[~ranked] = -np.inf
        again = np.zeros(len(rows), dtype=np.bool_)
        again[seen.rows[targets[seen.rows] == seen.columns]] = True
        warm = np.bincount(seen.rows, minlength=len(rows)) > 0
        return cls(kept, own, missing, again & ~missing, _count(~ranked), warm)


@dataclass(frozen=True)
class Ranks:
    """The rank of each event's held-out item in its pool."""

    above: Ints
    """(B,) ranked items with a higher score; all of them for an item that does not exist."""
    tied: Ints
    """(B,) ranked items with the same score, itself included: at least 1."""
    pool: Ints
    """(B,) items that were ranked."""

    @property
    def missed(self) -> NDArray[np.bool_]:
        """Return (B,) whether the item was not ranked."""
        return np.asarray(self.above == self.pool)

    @classmethod
    def joined(cls, parts: Sequence[Ranks]) -> Ranks:
        """Return the ranks of several batches as one."""
        return cls(
            above=np.concatenate([part.above for part in parts]),
            tied=np.concatenate([part.tied for part in parts]),
            pool=np.concatenate([part.pool for part in parts]),
        )


def rank(block: Block) -> Ranks:
    """Rank each held-out item among the unseen items.

    A score that is not a number ranks below all others. An item that does not exist is missed.
    """
    own = block.own[:, None]
    above = _count(block.scores > own)
    # Items that are out are at -inf, so they tie only with a target that has no score.
    unseen_ties = _count(block.scores == own) - block.out * np.isneginf(block.own)
    pool = block.scores.shape[1] - block.out + block.again
    return Ranks(
        above=np.where(block.missing, pool, above),
        tied=np.where(block.missing, 1, unseen_ties + block.again),
        pool=pool,
    )


def negative_log_likelihood(block: Block) -> Values:
    """Return (B,) -log softmax(scores)[target] over the ranked items, in nats.

    NaN if the item does not exist; infinite if the scores leave it no probability.
    """
    best = np.maximum(block.scores.max(axis=1, initial=-np.inf), block.own)
    with np.errstate(invalid="ignore", divide="ignore"):  # infinite scores
        total = np.exp(block.scores - best[:, None]).sum(axis=1, dtype=np.float64)
        total += np.exp(block.own - best) * block.again
        loss = best + np.log(total) - block.own
    loss[np.isnan(loss)] = np.inf
    loss[block.missing] = np.nan
    return np.asarray(loss, np.float64)


@dataclass(frozen=True)
class TopLists:
    """The first k items of each event's list, as entries ordered by event."""

    rows: Ints
    """(L,) the event."""
    columns: Ints
    """(L,) the item's column in the pool."""
    shares: Values
    """(L,) probability that the item is in the list; below 1 if items tie for its end."""


def top_lists(block: Block, k: int) -> TopLists:
    """Return the recommended items: the k best unseen ones, or fewer if there are fewer.

    Items that tie for the last places share them: t items on s places are in s / t of a list each.
    """
    end = _kth_best(block.scores, k)
    rows, columns = _where(block.scores >= end[:, None])
    tied = block.scores[rows, columns] == end[rows]
    places = k - np.bincount(rows[~tied], minlength=len(end))
    ties = np.bincount(rows[tied], minlength=len(end))
    shares = np.minimum(1.0, places / np.maximum(ties, 1))
    return TopLists(rows, columns, np.where(tied, shares[rows], 1.0))


def _kth_best(scores: Floats, k: int) -> Floats:
    """Return (B,) the k-th highest score of each row, the least finite one if there are fewer.

    k groups have an item at least as good as the k-th best group. So the end of the list is that
    item or one of the few better ones, and only those are sorted.
    """
    rows, items = scores.shape
    least = np.finfo(scores.dtype).min
    if items <= k:
        return np.full(rows, least, scores.dtype)
    best = _best_of_groups(scores, k)
    bound = np.partition(best, best.shape[1] - k, axis=1)[:, best.shape[1] - k]
    better, columns = _where(scores > bound[:, None])
    values = scores[better, columns]
    ordered = values[np.lexsort((-values, better))]
    counts = np.bincount(better, minlength=rows)
    enough = np.flatnonzero(counts >= k)
    bound[enough] = ordered[(np.cumsum(counts) - counts)[enough] + k - 1]
    return np.maximum(bound, least)


def _best_of_groups(scores: Floats, k: int) -> Floats:
    """Return (B, M) the highest score of each of M >= k groups of items."""
    rows, items = scores.shape
    groups = items // _GROUP
    if groups < _GROUPS_PER_PLACE * k:  # each item is a group of its own
        return scores
    whole = scores[:, : groups * _GROUP].reshape(rows, _GROUP, groups).max(axis=1)
    return np.concatenate([whole, scores[:, groups * _GROUP :]], axis=1)


def _where(mask: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Return row and column of the true cells, in a tenth of np.nonzero's time."""
    rows, columns = np.divmod(np.flatnonzero(mask), max(mask.shape[1], 1))
    return rows, columns


def _count(mask: NDArray[np.bool_]) -> Ints:
    """Return (B,) the number of true cells per row, in half of mask.sum(axis=1)'s time."""
    counts = mask.view(np.int8).sum(axis=1, dtype=np.int32)
    return np.asarray(counts, np.int64)
