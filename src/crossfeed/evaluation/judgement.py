"""The outcomes of a scorer's events, domain by domain; scores are dropped once ranked.

Dims: B events, N items of the domain's pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crossfeed.data.dataset import Dataset, Part
from crossfeed.evaluation.lists import ListCounts, information
from crossfeed.evaluation.metrics import metrics_at
from crossfeed.evaluation.ranking import (
    Block,
    Ranks,
    Seen,
    negative_log_likelihood,
    rank,
    top_lists,
)
from crossfeed.evaluation.slices import head_items
from crossfeed.scorer import Ints, Scorer

__all__ = ["Judgement", "judge_domain"]

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
    """(B,) whether the item is unknown to training."""
    warm: NDArray[np.bool_]
    """(B,) whether the history holds a click on an item of the domain's pool."""
    head: NDArray[np.bool_]
    """(B,) whether the item is a head item."""
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
        )


def judge_domain(
    scorer: Scorer, dataset: Dataset, events: Ints, domain: int, *, part: Part, k: int
) -> Judgement:
    """Rank the events of one domain, at least one, in its whole pool.

    Memory is bounded: a few numbers per event and two counters per item are kept.
    """
    pool = dataset.catalogue.pool(domain)
    clicks = dataset.item_clicks[pool]
    targets = _targets(dataset, events, pool)
    lists = ListCounts.none(len(clicks))
    ranks, losses, warm = [], [], []
    for first, last in dataset.chunks(
        events, at_once=_CELLS_AT_ONCE, of_event=len(clicks) + 1, of_click=_CELLS_OF_A_CLICK
    ):
        histories = dataset.histories(events[first:last], part)
        scores = scorer.score(histories, domain)
        block = Block.of(scores, targets[first:last], Seen.of(histories, pool))
        ranks.append(rank(block))
        losses.append(negative_log_likelihood(block))
        warm.append(block.seen > 0)
        lists.add(top_lists(block, k))
    found = Ranks.joined(ranks)
    values = {name: metric(found) for name, metric in metrics_at(k).items()}
    unknown = targets < 0
    return Judgement(
        users=dataset.users_of(events),
        values={**values, "nll": np.concatenate(losses)},
        unknown=unknown,
        warm=np.concatenate(warm),
        head=~unknown & np.append(head_items(clicks), False)[targets],
        lists=lists,
        bits=information(clicks),
    )


def _targets(dataset: Dataset, events: Ints, pool: slice) -> Ints:
    """Return (B,) the column of each event's item in the pool, -1 if it is not there."""
    items = dataset.event_item[events].astype(np.int64)
    return np.where((items >= pool.start) & (items < pool.stop), items - pool.start, -1)
