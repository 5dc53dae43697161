"""Ranking metrics of one relevant item among N, from its rank and its ties.

Ties are broken at random in expectation: an item that shares its score with t - 1 others gets the
mean of the metric over the t places that they fill, so that constant scores earn exactly what
chance earns, and no order of the catalogue leaks into a number.

Dims: B evaluated events, N items of a pool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossfeed.scorer import Floats, Ints

__all__ = ["METRICS", "Ranks", "auc", "ndcg", "ranks", "recall", "reciprocal_rank"]

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Ranks:
    """Where the relevant item of each event stands in its pool."""

    above: Ints
    """(B,) items with a higher score."""
    tied: Ints
    """(B,) items with the same score, itself included: at least 1."""
    pool: Ints
    """(B,) items that were ranked."""

    @classmethod
    def joined(cls, parts: Sequence[Ranks]) -> Ranks:
        """Return the ranks of several batches as one."""
        return cls(
            above=np.concatenate([part.above for part in parts]),
            tied=np.concatenate([part.tied for part in parts]),
            pool=np.concatenate([part.pool for part in parts]),
        )


def ranks(scores: Floats, targets: Ints, excluded: NDArray[np.bool_]) -> Ranks:
    """Rank each row's target among the items that are not excluded.

    Args:
        scores: (B, N) higher is better; NaN ranks below everything.
        targets: (B,) column of the relevant item, or -1 where it is not in the pool: a miss,
            which ranks below all items.
        excluded: (B, N) items that do not take part; the target always does.
    """
    rows = np.arange(len(targets))
    missing = targets < 0
    columns = np.where(missing, 0, targets)
    scores = np.where(np.isnan(scores), -np.inf, scores)
    considered = ~excluded
    considered[rows, columns] |= ~missing
    own = scores[rows, columns][:, None]
    above = ((scores > own) & considered).sum(axis=1)
    tied = ((scores == own) & considered).sum(axis=1)
    pool = considered.sum(axis=1)
    return Ranks(
        above=np.where(missing, pool, above),
        tied=np.where(missing, 1, tied),
        pool=pool + missing,
    )


def ndcg(found: Ranks, k: int) -> Values:
    """Return (B,) 1 / log2(1 + rank) where rank <= k, else 0 (one relevant item: IDCG is 1).

    Source: Jarvelin & Kekalainen 2002.
    """
    return _expected(found, 1 / np.log2(np.arange(2, k + 2)))


def recall(found: Ranks, k: int) -> Values:
    """Return (B,) 1 where rank <= k, else 0; with one relevant item also the hit rate."""
    return _expected(found, np.ones(k))


def reciprocal_rank(found: Ranks, k: int) -> Values:
    """Return (B,) 1 / rank where rank <= k, else 0."""
    return _expected(found, 1 / np.arange(1, k + 1))


def auc(found: Ranks, k: int) -> Values:
    """Return (B,) 1 - (rank - 1) / (n - 1): the share of other items ranked below; `k` is unused.

    A pool of one item has no other to compare with and counts 0.5.
    """
    place = found.above + (found.tied - 1) / 2
    others = found.pool - 1
    return np.where(others > 0, 1 - place / np.maximum(others, 1), 0.5)


METRICS: Mapping[str, tuple[Callable[[Ranks, int], Values], int]] = {
    "ndcg@10": (ndcg, 10),
    "recall@10": (recall, 10),
    "mrr": (reciprocal_rank, 1_000_000),
    "auc": (auc, 0),
}
"""Name -> (function, cutoff k)."""


def _expected(found: Ranks, gains: Values) -> Values:
    """Return the mean gain over the places above + 1 .. above + tied; none beyond the last."""
    cumulative = np.concatenate([[0.0], np.cumsum(gains)])
    last = len(gains)
    first_place = np.minimum(found.above, last)
    last_place = np.minimum(found.above + found.tied, last)
    return np.asarray((cumulative[last_place] - cumulative[first_place]) / found.tied)
