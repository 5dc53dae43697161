"""From queries to answers in JSON: many at once, counted and timed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from crossfeed.errors import HistoryStoreError
from crossfeed.serving.engine.in_service import ModelInService
from crossfeed.serving.http.schemas import Answer
from crossfeed.serving.operations.monitoring import Monitoring
from crossfeed.serving.operations.tracing import Tracing
from crossfeed.serving.recommend.pipeline import Answered
from crossfeed.serving.recommend.query import Query
from crossfeed.serving.recommend.recommender import Recommender
from crossfeed.serving.recommend.timing import Note

if TYPE_CHECKING:
    from opentelemetry.context import Context

__all__ = ["PendingQuery", "answer_all"]

_DEGRADED = "the history store does not answer"


@dataclass(frozen=True, slots=True)
class PendingQuery:
    """A query that waits for its answer."""

    query: Query
    since: float = field(default_factory=time.perf_counter)
    """When it came, in seconds of `time.perf_counter`."""
    trace: Context | None = None
    """The parent of its spans."""


def answer_all(
    pending: Sequence[PendingQuery],
    *,
    model: ModelInService,
    monitoring: Monitoring,
    tracing: Tracing | None = None,
) -> list[bytes | Exception]:
    """Answer queries together; return for each its JSON, or what is wrong with it.

    If the history store does not answer, a known user gets what a new one would.
    """
    recommender = model.recommender  # one model for the whole batch
    queries = [one.query for one in pending]
    found = recommender.answer(queries, note=_note(pending, monitoring, tracing))
    unread = [place for place, one in enumerate(found) if isinstance(one, HistoryStoreError)]
    if unread:
        unknown = [replace(queries[place], user_id=None, history=()) for place in unread]
        for place, answered in zip(unread, recommender.answer(unknown), strict=True):
            found[place] = answered
    return [
        _answer(one, answered, place in unread, recommender=recommender, monitoring=monitoring)
        if isinstance(answered, Answered)
        else answered
        for place, (one, answered) in enumerate(zip(pending, found, strict=True))
    ]


def _note(pending: Sequence[PendingQuery], monitoring: Monitoring, tracing: Tracing | None) -> Note:
    """Return what tells monitoring and tracing of each stage; the store times itself."""

    def note(stage: str, places: Sequence[int], began: float) -> None:
        if stage != "store":
            seconds = time.perf_counter() - began
            domain = _domain(pending[places[0]].query) if len(places) == 1 else ""
            monitoring.took(stage, seconds, domain=domain)
        if tracing is not None:
            for trace in {id(pending[place]): pending[place].trace for place in places}.values():
                if trace is not None:
                    tracing.took(stage, trace, began)

    return note


def _domain(query: Query) -> str:
    """Return the domain of a query, nothing if it names several."""
    return next(iter(query.domains)) if len(query.domains) == 1 else ""


def _answer(
    pending: PendingQuery,
    answered: Answered,
    degraded: bool,
    *,
    recommender: Recommender,
    monitoring: Monitoring,
) -> bytes:
    query, seconds = pending.query, time.perf_counter() - pending.since
    for domain, fallback in zip(query.domains, answered.fallbacks, strict=True):
        held_back = domain in recommender.bundle.held_back
        monitoring.recommended(domain, fallback, degraded=degraded, held_back=held_back)
    whole = "recommend" if len(query.domains) == 1 else "feed"
    monitoring.took(whole, seconds, domain=_domain(query))
    why = _DEGRADED if degraded else None
    return Answer.of(answered.recommendations, took_ms=seconds * 1000, degraded=why).to_json()
