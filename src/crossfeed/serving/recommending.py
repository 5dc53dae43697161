"""From checked requests to answers in JSON: many at once, and what the monitoring learns of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from crossfeed.errors import HistoryStoreError, RequestError
from crossfeed.serving.answers import Feed, Recommendations, blend
from crossfeed.serving.monitoring import Monitoring
from crossfeed.serving.recommender import Recommender
from crossfeed.serving.reload import ModelInService
from crossfeed.serving.rules import Rules
from crossfeed.serving.schemas import Answer, RecommendBody

__all__ = ["Asked", "answer_all"]

_DEGRADED = "the history store does not answer"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and since when it waits."""

    body: RecommendBody
    since: float = field(default_factory=time.perf_counter)


def answer_all(
    asked: Sequence[Asked], *, model: ModelInService, monitoring: Monitoring
) -> list[bytes | Exception]:
    """Answer requests together; of each the JSON, or what is wrong with it.

    Where the history store does not answer, a known user gets what a new one would.
    """
    recommender = model.recommender  # one model for the whole batch
    feeds = [_feed(one.body) for one in asked]
    found = recommender.answer_feeds(feeds)
    unread = [place for place, one in enumerate(found) if isinstance(one, HistoryStoreError)]
    if unread:
        unknown = [Feed(feeds[at].domains, history=[], rules=feeds[at].rules) for at in unread]
        for place, parts in zip(unread, recommender.answer_feeds(unknown), strict=True):
            found[place] = parts
    return [
        parts
        if isinstance(parts, RequestError | HistoryStoreError)
        else _answer(one, parts, place in unread, recommender=recommender, monitoring=monitoring)
        for place, (one, parts) in enumerate(zip(asked, found, strict=True))
    ]


def _feed(body: RecommendBody) -> Feed:
    history = body.history
    return Feed(
        body.domains or {str(body.domain): body.k},
        user_id=body.user_id,
        history=None if history is None else [dict(event) for event in history],
        rules=Rules(body.exclude_seen, body.include, body.exclude, body.candidates, body.sources),
    )


def _answer(
    asked: Asked,
    parts: Sequence[Recommendations],
    degraded: bool,
    *,
    recommender: Recommender,
    monitoring: Monitoring,
) -> bytes:
    body, seconds = asked.body, time.perf_counter() - asked.since
    for domain, part in zip(body.domains or [str(body.domain)], parts, strict=True):
        held_back = domain in recommender.bundle.held_back
        monitoring.recommended(domain, part, degraded=degraded, held_back=held_back)
    monitoring.took("recommend" if body.domain else "feed", seconds, domain=body.domain or "")
    why = _DEGRADED if degraded else None
    return Answer.of(blend(parts), took_ms=seconds * 1000, degraded=why).to_json()
