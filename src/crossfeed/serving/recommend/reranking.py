"""One order out of the ranked items of a query's domains.

Quotas, caps, diversity and pinned items act here: behind the ranking, before the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from crossfeed.serving.recommend.answers import Recommendation
from crossfeed.serving.recommend.ranking import Ranked

__all__ = ["ReRank", "blend"]

ReRank = Callable[[Sequence[Ranked]], tuple[Recommendation, ...]]
"""Makes one list of the ranked items of each domain, in the order in which the query names them."""


def blend(ranked: Sequence[Ranked]) -> tuple[Recommendation, ...]:
    """Return one feed of several domains' items, each domain spread evenly over it.

    Scores of different domains cannot be compared: each is known up to a constant for the user
    and the domain. So the j-th of a domain's n items (from 0) takes the place (j + 1/2) / n; at
    equal places the domain that was named first comes first, and every domain keeps its order.

    Args:
        ranked: one per domain, at least one.
    """
    if len(ranked) == 1:
        return ranked[0].items
    placed = [
        ((position + 0.5) / len(one.items), number, item)
        for number, one in enumerate(ranked)
        for position, item in enumerate(one.items)
    ]
    placed.sort(key=lambda entry: entry[:2])
    return tuple(item for _, _, item in placed)
