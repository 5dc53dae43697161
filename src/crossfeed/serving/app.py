"""The HTTP service: the routes of docs/serving.md over a recommender and a history store."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from starlette.exceptions import HTTPException

from crossfeed import __version__
from crossfeed.bundle import Bundle
from crossfeed.errors import HistoryStoreError, RequestError, UnknownDomainError
from crossfeed.serving.history import HistoryStore, Id, NewEvent, restore_id
from crossfeed.serving.monitoring import Monitoring, RequestLog
from crossfeed.serving.problems import http_problem, problem, request_problem, validation_problem
from crossfeed.serving.recommender import Recommender
from crossfeed.serving.schemas import (
    Answer,
    DomainFacts,
    EventBody,
    EventsBody,
    EventsStored,
    Forgotten,
    ModelFacts,
    Problem,
    RecommendBody,
    UserHistory,
    WantedBody,
)
from crossfeed.serving.security import BodyLimit, RequireKey

__all__ = ["MOST_BODY_BYTES", "OPEN_PATHS", "create_app"]

OPEN_PATHS = frozenset({"/health/live", "/health/ready"})
"""What never needs a key."""
MOST_BODY_BYTES = 1_048_576


def create_app(bundle: Bundle, *, store: HistoryStore, keys: Sequence[str] = ()) -> FastAPI:
    """Make the service.

    Args:
        bundle: the model in service.
        store: what users did; it is filled from the bundle's histories when it is new, and
            closed with the application.
        keys: API keys of which a request must bring one; none means that everybody may ask.
    """
    service = _Service(bundle, store)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            store.fill(bundle.histories(), origin=bundle.version)
            _ = bundle.scorer  # loaded before the first request
            yield
        finally:
            store.close()

    app = FastAPI(
        title="crossfeed",
        version=__version__,
        lifespan=lifespan,
        responses={422: {"model": Problem}, 503: {"model": Problem}},
    )
    app.include_router(service.routes())
    app.add_exception_handler(RequestError, _request_problem)
    app.add_exception_handler(RequestValidationError, _validation_problem)
    app.add_exception_handler(HistoryStoreError, service.store_problem)
    app.add_exception_handler(HTTPException, _http_problem)
    _add_guards(app, service.monitoring, keys)
    return app


def _add_guards(app: FastAPI, monitoring: Monitoring, keys: Sequence[str]) -> None:
    """Put around the routes what every request passes; the last one added is the outermost."""
    too_large = problem(413, "The body is too large", f"at most {MOST_BODY_BYTES} bytes are read")
    app.add_middleware(BodyLimit, most_bytes=MOST_BODY_BYTES, refusal=too_large)
    if keys:
        no_key = problem(401, "No valid key", "send a key as X-API-Key or as a bearer token")
        no_key.headers["www-authenticate"] = "Bearer"
        app.add_middleware(RequireKey, keys=keys, open_paths=OPEN_PATHS, refusal=no_key)
    failure = problem(500, "Something went wrong", "the service's log tells more")
    app.add_middleware(RequestLog, monitoring=monitoring, failure=failure)


class _Service:
    """The handlers. They are plain functions, which FastAPI runs in threads off the event loop."""

    def __init__(self, bundle: Bundle, store: HistoryStore) -> None:
        self.bundle, self.store = bundle, store
        self.recommender = Recommender(bundle, histories=store)
        self.monitoring = Monitoring(model_version=bundle.version)

    def routes(self) -> APIRouter:
        """Return the routes; an id in a URL may hold slashes."""
        router = APIRouter()
        router.post("/v1/recommend")(self.recommend)
        router.get("/v1/users/{user_id:path}/recommendations")(self.recommend_to_user)
        router.get("/v1/users/{user_id:path}/history")(self.history)
        router.post("/v1/events")(self.store_events)
        router.delete("/v1/users/{user_id:path}")(self.forget)
        router.get("/v1/domains")(self.domains)
        router.get("/v1/model")(self.model)
        router.get("/metrics", response_class=PlainTextResponse)(self.metrics)
        router.get("/health/live")(self.live)
        router.get("/health/ready")(self.ready)
        return router

    def recommend(self, body: RecommendBody) -> Answer:
        """Recommend items of a domain to a known user, or to a history in the request."""
        began = time.perf_counter()
        events = body.history
        found = self.recommender.recommend(
            domain=body.domain,
            user_id=body.user_id,
            history=None if events is None else [event.model_dump() for event in events],
            k=body.k,
            exclude_seen=body.exclude_seen,
            include=body.include,
            exclude=body.exclude,
            candidates=body.candidates,
        )
        self.monitoring.recommended(body.domain, found)
        return Answer.of(found, took_ms=(time.perf_counter() - began) * 1000)

    def recommend_to_user(self, user_id: str, wanted: Annotated[WantedBody, Query()]) -> Answer:
        """Recommend items of a domain to a known user."""
        restored = self._user(user_id)
        return self.recommend(RecommendBody(domain=wanted.domain, user_id=restored, k=wanted.k))

    def history(self, user_id: str) -> UserHistory:
        """Return what is stored of a user."""
        restored = self._user(user_id)
        events = [
            {"item_id": event.item_id, "domain": event.domain, "timestamp": event.timestamp}
            for event in self.store.read(restored)
        ]
        return UserHistory.model_validate({"user_id": restored, "events": events})

    def store_events(self, body: EventsBody) -> EventsStored:
        """Store events; they are on disk before the answer, and the next answer knows them."""
        new = [
            self._new_event(event, f"events[{place}]") for place, event in enumerate(body.events)
        ]
        accepted, duplicates = self.store.append(new)
        self.monitoring.stored(accepted=accepted, duplicates=duplicates)
        return EventsStored(accepted=accepted, duplicates=duplicates)

    def forget(self, user_id: str) -> Forgotten:
        """Erase all that is stored of a user."""
        restored = self._user(user_id)
        return Forgotten(user_id=restored, forgotten=self.store.forget(restored))

    def domains(self) -> list[DomainFacts]:
        """Return the domains that can be asked for."""
        catalogue = self.bundle.catalogue
        return [
            DomainFacts(domain=name, items=int(items))
            for name, items in zip(catalogue.domains, catalogue.known, strict=True)
        ]

    def model(self) -> ModelFacts:
        """Return what is known of the model in service."""
        return ModelFacts(
            model_version=self.bundle.version,
            crossfeed=self.bundle.about["crossfeed"],
            card=self.bundle.card,
        )

    def metrics(self) -> Response:
        """Return the metrics in Prometheus' text format."""
        return PlainTextResponse(self.monitoring.page())

    def live(self) -> dict[str, str]:
        """Return that the process answers."""
        return {"status": "live"}

    def ready(self) -> dict[str, str]:
        """Return that model and history store can answer requests."""
        self.store.ping()
        return {"status": "ready"}

    def store_problem(self, request: Request, error: Exception) -> Response:
        """Answer that the store fails; what of it, the log tells and not the answer."""
        self.monitoring.failed(error, request_id=request.state.request_id)
        return problem(503, "The history store does not answer", "try again later")

    def _user(self, text: str) -> Id:
        return restore_id(text, self.bundle.user_id_type, field="user_id")

    def _new_event(self, event: EventBody, name: str) -> NewEvent:
        domains = self.bundle.catalogue.domains
        if event.domain not in domains:
            unknown = UnknownDomainError(event.domain, domains)
            raise RequestError(
                unknown.message, field=f"{name}.domain", value=event.domain, allowed=unknown.allowed
            )
        user_id = restore_id(event.user_id, self.bundle.user_id_type, field=f"{name}.user_id")
        item_id = restore_id(event.item_id, self.bundle.item_id_type, field=f"{name}.item_id")
        return NewEvent(event.event_id, user_id, item_id, event.domain, event.timestamp)


def _request_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return request_problem(error)


def _validation_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return validation_problem(error)


def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return http_problem(error)
