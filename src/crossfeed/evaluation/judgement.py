"""The outcomes of a scorer's events, domain by domain; scores are dropped once ranked.

Dims: B events, N items of the domain's pool.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crossfeed.data.dataset import Dataset
from crossfeed.evaluation.clock import Clock, Moments
from crossfeed.evaluation.lists import ListCounts, information
from crossfeed.evaluation.metrics import DEFAULT_K, SELECTED_BY, metrics_at
from crossfeed.evaluation.ranking import (
    Block,
    Ranks,
    Seen,
    negative_log_likelihood,
    rank,
    top_lists,
)
from crossfeed.evaluation.slices import head_items
from crossfeed.scorer import Ints, Scorer, VectorScorer

__all__ = ["Judgement", "judge_domain", "judge_shares"]

_CELLS_AT_ONCE = 4_000_000
"""Scores held in memory at a time; with temporaries about 80 MB."""

_CELLS_OF_A_CLICK = 4
"""Memory of one click of a history, in scores."""


@dataclass(frozen=True)
class Judgement:
    """The outcomes of a scorer on the events of one or more domains."""

    users: Ints
    """(B,) index of the event's user."""
    values: dict[str, NDArray[np.float64]]
    """Metric -> (B,) its value; NaN if the event has none."""
    unknown: NDArray[np.bool_]
    """(B,) whether the item did not exist yet."""
    warm: NDArray[np.bool_]
    """(B,) whether the history holds a click on an item of the domain's pool."""
    head: NDArray[np.bool_]
    """(B,) whether the item is a head item."""
    item_clicks: Ints
    """(B,) training clicks of the item."""
    lists: ListCounts
    """How often each of the N items was recommended."""
    bits: NDArray[np.float64]
    """(N,) self-information of each item."""

    @classmethod
    def of_domain(cls, parts: Sequence[Judgement]) -> Judgement:
        """Join the outcomes of several parts of one domain's events, over the same items."""
        if len(parts) == 1:
            return parts[0]
        lists = ListCounts.added([part.lists for part in parts])
        return replace(cls.joined(parts), lists=lists, bits=parts[0].bits)

    @classmethod
    def joined(cls, parts: Sequence[Judgement]) -> Judgement:
        """Join the outcomes of several domains: events and items one after the other."""
        return cls(
            users=np.concatenate([part.users for part in parts]),
            values={
                name: np.concatenate([part.values[name] for part in parts])
                for name in parts[0].values
            },
            unknown=np.concatenate([part.unknown for part in parts]),
            warm=np.concatenate([part.warm for part in parts]),
            head=np.concatenate([part.head for part in parts]),
            item_clicks=np.concatenate([part.item_clicks for part in parts]),
            lists=ListCounts.joined([part.lists for part in parts]),
            bits=np.concatenate([part.bits for part in parts]),
        )

    def reordered(self, events: Ints) -> Judgement:
        """Return the judgement with its events in the order of the given positions."""
        return replace(
            self,
            users=self.users[events],
            values={name: each[events] for name, each in self.values.items()},
            unknown=self.unknown[events],
            warm=self.warm[events],
            head=self.head[events],
            item_clicks=self.item_clicks[events],
        )


def judge_shares(
    scorer: VectorScorer, dataset: Dataset, events: Ints, *, clock: Clock, shares: Sequence[float]
) -> NDArray[np.float64]:
    """Return (shares,) the summed ndcg@10 of events if the inner product counts by each share.

    One look at each moment serves all shares.

    Args:
        scorer: its score is an inner product and a bias.
        dataset: prepared data.
        events: (B,) in any order.
        clock: the moments of the events.
        shares: factors of the inner product.
    """
    sums, metric = np.zeros(len(shares)), metrics_at(DEFAULT_K)[SELECTED_BY]
    for domain in np.unique(dataset.event_domain[events]).tolist():
        own = events[dataset.event_domain[events] == domain]
        own = own[np.argsort(dataset.event_time[own], kind="stable")]
        pool = dataset.catalogue.pool(domain)
        for first, last in _chunks(dataset, own, pool):
            histories = dataset.histories(own[first:last], clock.part)
            targets = dataset.event_item[own[first:last]].astype(np.int64) - pool.start
            moments, seen = Moments.of(clock, domain, own[first:last]), Seen.of(histories, pool)
            personal, biases, exists = moments.parts(scorer, histories)
            for place, share in enumerate(shares):
                scores = biases.copy()
                scores[:, : personal.shape[1]] += share * personal
                sums[place] += metric(rank(Block.of(scores, targets, seen, exists))).sum()
    return sums


def judge_domain(
    scorer: Scorer, dataset: Dataset, events: Ints, domain: int, *, clock: Clock, k: int
) -> Judgement:
    """Rank the events of one domain, at least one, in its whole pool.

    Memory is bounded: a few numbers per event and two counters per item are kept.

    Args:
        scorer: see `evaluate`.
        dataset: prepared data.
        events: (B,) of the domain, in time order.
        domain: index of the domain.
        clock: the moments of the events.
        k: length of the lists.
    """
    pool = dataset.catalogue.pool(domain)
    clicks = dataset.item_clicks[pool]
    targets = dataset.event_item[events].astype(np.int64) - pool.start
    lists = ListCounts.none(len(clicks))
    ranks, losses, warm, unknown = [], [], [], []
    for first, last in _chunks(dataset, events, pool):
        histories = dataset.histories(events[first:last], clock.part)
        scores, exists = Moments.of(clock, domain, events[first:last]).scored(scorer, histories)
        block = Block.of(scores, targets[first:last], Seen.of(histories, pool), exists)
        ranks.append(rank(block))
        losses.append(negative_log_likelihood(block))
        warm.append(block.warm)
        unknown.append(block.missing)
        lists.add(top_lists(block, k))
    found = Ranks.joined(ranks)
    values = {name: metric(found) for name, metric in metrics_at(k).items()}
    return Judgement(
        users=dataset.users_of(events),
        values={**values, "nll": np.concatenate(losses)},
        unknown=np.concatenate(unknown),
        warm=np.concatenate(warm),
        head=head_items(clicks)[targets],
        item_clicks=clicks[targets],
        lists=lists,
        bits=information(clicks),
    )


def _chunks(dataset: Dataset, events: Ints, pool: slice) -> Iterator[tuple[int, int]]:
    """Yield ranges of events whose scores over the pool fit in memory together."""
    return dataset.chunks(
        events,
        at_once=_CELLS_AT_ONCE,
        of_event=pool.stop - pool.start + 1,
        of_click=_CELLS_OF_A_CLICK,
    )
