"""Examples of recommendations, with the effect of each part of the history.

Dims: N items of a pool.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from crossfeed.data.dataset import Dataset, Part
from crossfeed.evaluation.ranking import Block, Seen, rank
from crossfeed.evaluation.report.contents import Click, Example, Influence
from crossfeed.scorer import Histories, Ints, Moment, Scorer

__all__ = ["draw_examples"]

_LIST = 10
_NEWEST = 5
_LOOKED_AT = 5_000
"""Held-out events among which examples are drawn."""
_CLICKS_AT_ONCE = 1_000_000
"""Clicks of their histories held in memory at a time; with temporaries about 100 MB."""


def draw_examples(
    scorer: Scorer, dataset: Dataset, *, part: Part, count: int
) -> tuple[Example, ...]:
    """Draw held-out events of users who know several domains, and recommend just before them.

    The same dataset gives the same events.

    Args:
        scorer: makes the recommendations.
        dataset: prepared data.
        part: the part that was evaluated.
        count: most examples; each of another user, and of another domain while there are any.
    """
    events = np.random.default_rng(0).permutation(dataset.events(part))[:_LOOKED_AT]
    of_several = [
        events[first:last][_domains_known(dataset.histories(events[first:last], part), dataset) > 1]
        for first, last in dataset.chunks(events, at_once=_CLICKS_AT_ONCE, of_event=1)
    ]
    chosen = _spread(np.concatenate([events[:0], *of_several]), dataset, count)
    return tuple(_example(scorer, dataset, int(event), part) for event in chosen)


def _domains_known(histories: Histories, dataset: Dataset) -> Ints:
    """Return how many domains each history touches."""
    width = len(dataset.catalogue.domains)
    pairs = np.unique(histories.rows() * width + dataset.catalogue.domain_of(histories.items))
    return np.bincount(pairs // width, minlength=len(histories))


def _spread(events: Ints, dataset: Dataset, count: int) -> Ints:
    """Return the first events without repeating a user, taking domains in turn."""
    _, firsts = np.unique(dataset.users_of(events), return_index=True)
    events = events[np.sort(firsts)]
    domains = dataset.event_domain[events]
    order = np.argsort(domains, kind="stable")
    turn = np.empty(len(events), np.int64)  # how many events of its domain come before
    turn[order] = np.arange(len(events)) - np.searchsorted(domains[order], domains[order])
    return events[np.argsort(turn, kind="stable")[:count]]


def _example(scorer: Scorer, dataset: Dataset, event: int, part: Part) -> Example:
    histories = dataset.histories(np.array([event]), part)
    domain = int(dataset.event_domain[event])
    pool = dataset.catalogue.pool(domain)
    next_item = int(dataset.event_item[event])
    target = next_item - pool.start
    seen = Seen.of(histories, pool)
    moment = dataset.moment(int(dataset.event_time[event]), part)
    exists = moment.exists(domain)
    scores = scorer.score(histories, domain, moment)
    block = Block.of(scores, np.array([target]), seen, exists)
    listed = _best(block)
    clicks = dataset.item_clicks[pool][None].astype(np.float32)
    popular = _best(Block.of(clicks, _NOBODY, seen, exists))
    ranks = rank(block)
    return Example(
        user=_user(dataset, event),
        domain=dataset.catalogue.domains[domain],
        is_new=not len(seen.columns),
        items=tuple(
            Click(
                item=_item(dataset, pool.start + place),
                popular=place in popular,
                was_next=place == target,
            )
            for place in listed
        ),
        history=tuple(_influences(scorer, dataset, histories, domain, moment, listed)),
        next_item=_item(dataset, next_item),
        next_rank=None if block.missing[0] else int(ranks.above[0] + (ranks.tied[0] + 1) // 2),
    )


_NOBODY = np.array([-1])


def _best(block: Block) -> list[int]:
    """Return the columns that are recommended, best first."""
    order = np.argsort(-block.scores[0], kind="stable")[:_LIST]
    return [int(place) for place in order if np.isfinite(block.scores[0, place])]


def _influences(
    scorer: Scorer,
    dataset: Dataset,
    histories: Histories,
    domain: int,
    moment: Moment,
    listed: list[int],
) -> Iterator[Influence]:
    """Yield the effect of each domain's history on the list, the most influential first."""
    catalogue, pool = dataset.catalogue, dataset.catalogue.pool(domain)
    items = histories.items
    domains = catalogue.domain_of(items)
    seen = Seen.of(histories, pool)
    found = []
    for other in np.unique(domains).tolist():
        without = scorer.score(histories.where(domains != other), domain, moment)
        block = Block.of(without, _NOBODY, seen, moment.exists(domain))
        changed = len(set(listed) - set(_best(block)))
        own = items[domains == other]
        newest = tuple(_item(dataset, int(item)) for item in own[::-1][:_NEWEST])
        found.append(Influence(catalogue.domains[other], len(own), newest, changed))
    yield from sorted(found, key=lambda one: -one.changed)


def _user(dataset: Dataset, event: int) -> str:
    return str(dataset.user_ids[int(dataset.users_of(np.array([event]))[0])].as_py())


def _item(dataset: Dataset, item: int) -> str:
    return str(dataset.item_ids[item].as_py())
