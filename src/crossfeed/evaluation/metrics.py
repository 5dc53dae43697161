"""Ranking metrics of one relevant item among n, from its rank and its ties.

An item that shares its score with t - 1 others gets the mean of the metric over their t places. So
constant scores earn exactly what chance earns. A missed item, which was not ranked, earns 0 in
every metric.

Dims: B evaluated events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from crossfeed.evaluation.ranking import Ranks
from crossfeed.scorer import Ints

__all__ = [
    "DEFAULT_K",
    "LOWER_IS_BETTER",
    "SELECTED_BY",
    "auc",
    "gauc",
    "metrics_at",
    "ndcg",
    "recall",
    "reciprocal_rank",
]

Values = NDArray[np.float64]

DEFAULT_K = 10
"""Length of the judged lists."""

SELECTED_BY = f"ndcg@{DEFAULT_K}"
"""The metric whose mean over all validation clicks chooses the best epoch."""

LOWER_IS_BETTER = frozenset({"nll"})
"""Metrics whose largest value is the worst."""


def metrics_at(k: int) -> Mapping[str, Callable[[Ranks], Values]]:
    """Return name -> metric, a function of the rank of every event.

    An event has one relevant item, so recall equals hit, and average precision equals the
    reciprocal rank. Each is given under both names.
    """
    recall_at_k = partial(recall, k=k)
    reciprocal_rank_at_k = partial(reciprocal_rank, k=k)
    return {
        f"ndcg@{k}": partial(ndcg, k=k),
        f"recall@{k}": recall_at_k,
        f"hit@{k}": recall_at_k,
        f"mrr@{k}": reciprocal_rank_at_k,
        f"map@{k}": reciprocal_rank_at_k,
        "mrr": reciprocal_rank,
        "auc": auc,
    }


def ndcg(found: Ranks, k: int) -> Values:
    """Return (B,) 1 / log2(1 + rank) where rank <= k, else 0 (one relevant item: IDCG is 1).

    Source: Jarvelin & Kekalainen 2002.
    """
    return _expected(found, 1 / np.log2(np.arange(2, k + 2)))


def recall(found: Ranks, k: int) -> Values:
    """Return (B,) 1 where rank <= k, else 0; with one relevant item also the hit rate."""
    return _expected(found, np.ones(k))


def reciprocal_rank(found: Ranks, k: int | None = None) -> Values:
    """Return (B,) 1 / rank where rank <= k, else 0; without `k` for every rank.

    Source: Voorhees 1999. With one relevant item also the average precision.
    """
    last = int(found.pool.max(initial=0)) if k is None else k
    return _expected(found, 1 / np.arange(1, last + 1))


def auc(found: Ranks) -> Values:
    """Return (B,) 1 - (rank - 1) / (n - 1): the share of other items ranked below.

    A pool of one item counts 0.5, which is chance.
    """
    place = found.above + (found.tied - 1) / 2
    others = found.pool - 1
    values = np.where(others > 0, 1 - place / np.maximum(others, 1), 0.5)
    return np.where(found.missed, 0.0, values)


def gauc(values: Values, pairs: Ints) -> float:
    """Return the mean, over the pairs of a user and a domain, of the pair's mean auc.

    Args:
        values: (B,) auc of each event, at least one.
        pairs: (B,) a number for the event's pair.

    Source: Zhu et al. 2017 (optimized cost per click), who weight users by impressions. Here each
    pair counts once, so the most active users do not dominate.
    """
    _, index, counts = np.unique(pairs, return_inverse=True, return_counts=True)
    return float((np.bincount(index, weights=values) / counts).mean())


def _expected(found: Ranks, gains: Values) -> Values:
    """Return the mean gain over the places above + 1 .. above + tied; none beyond the last."""
    cumulative = np.concatenate([[0.0], np.cumsum(gains)])
    last = len(gains)
    first_place = np.minimum(found.above, last)
    last_place = np.minimum(found.above + found.tied, last)
    means = (cumulative[last_place] - cumulative[first_place]) / found.tied
    return np.where(found.missed, 0.0, means)
