"""From checked requests to answers in JSON: many at once, and what the monitoring learns of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crossfeed.errors import HistoryStoreError, RequestError
from crossfeed.serving.engine.in_service import ModelInService
from crossfeed.serving.http.schemas import Answer, RecommendBody
from crossfeed.serving.operations.monitoring import Monitoring
from crossfeed.serving.operations.tracing import Tracing
from crossfeed.serving.recommend.answers import Feed, Recommendations, blend
from crossfeed.serving.recommend.recommender import Recommender
from crossfeed.serving.recommend.rules import Rules
from crossfeed.serving.recommend.timing import Note

if TYPE_CHECKING:
    from opentelemetry.context import Context

__all__ = ["Asked", "answer_all"]

_DEGRADED = "the history store does not answer"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and since when it waits."""

    body: RecommendBody
    since: float = field(default_factory=time.perf_counter)
    trace: Context | None = None
    """What the spans of its stages belong to."""


def answer_all(
    asked: Sequence[Asked],
    *,
    model: ModelInService,
    monitoring: Monitoring,
    tracing: Tracing | None = None,
) -> list[bytes | Exception]:
    """Answer requests together; of each the JSON, or what is wrong with it.

    Where the history store does not answer, a known user gets what a new one would.
    """
    recommender = model.recommender  # one model for the whole batch
    feeds = [_feed(one.body) for one in asked]
    note = _note(asked, monitoring, tracing)
    found = recommender.answer_feeds(feeds, note=note)
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


def _note(asked: Sequence[Asked], monitoring: Monitoring, tracing: Tracing | None) -> Note:
    """Return what tells monitoring and tracing of each stage; the store times itself."""

    def note(stage: str, places: Sequence[int], began: float) -> None:
        if stage != "store":
            seconds, bodies = time.perf_counter() - began, [asked[place].body for place in places]
            domain = (bodies[0].domain or "") if len(bodies) == 1 else ""
            monitoring.took(stage, seconds, domain=domain)
        if tracing is not None:
            for trace in {id(asked[place]): asked[place].trace for place in places}.values():
                if trace is not None:
                    tracing.took(stage, trace, began)

    return note


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
