"""The HTTP service: the routes of docs/serving.md over a recommender and a history store."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from crossfeed import __version__
from crossfeed.bundle import Bundle
from crossfeed.errors import HistoryStoreError, RequestError
from crossfeed.serving.history import HistoryStore, NewEvent, restore_id
from crossfeed.serving.monitoring import Monitoring, RequestLog
from crossfeed.serving.recommender import MAX_K, Recommender
from crossfeed.serving.schemas import (
    Answer,
    DomainFacts,
    EventsBody,
    EventsStored,
    Forgotten,
    ModelFacts,
    Problem,
    RecommendBody,
    UserHistory,
)
from crossfeed.serving.security import BodyLimit, has_key

__all__ = ["create_app"]

MOST_BODY_BYTES = 1_048_576


def create_app(bundle: Bundle, *, store: HistoryStore, keys: Sequence[str] = ()) -> FastAPI:
    """Make the service.

    Args:
        bundle: the model in service.
        store: what users did; it is filled from the bundle's histories when it is new, and
            closed with the application.
        keys: API keys of which a request must bring one; none means that everybody may ask.
    """
    service = _Service(bundle, store, keys)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        store.fill(bundle.histories(), origin=bundle.version)
        _ = bundle.scorer  # loaded before the first request
        yield
        store.close()

    app = FastAPI(
        title="crossfeed",
        version=__version__,
        lifespan=lifespan,
        responses={422: {"model": Problem}, 503: {"model": Problem}},
    )
    app.include_router(service.private_routes())
    app.include_router(service.open_routes())
    app.add_exception_handler(RequestError, _request_problem)
    app.add_exception_handler(RequestValidationError, _validation_problem)
    app.add_exception_handler(HistoryStoreError, _store_problem)
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(Exception, _unexpected_problem)
    refusal = _problem(413, "The body is too large", f"at most {MOST_BODY_BYTES} bytes are read")
    app.add_middleware(BodyLimit, most_bytes=MOST_BODY_BYTES, refusal=refusal)
    app.add_middleware(RequestLog, monitoring=service.monitoring)
    return app


class _Service:
    """The handlers. They are plain functions, which FastAPI runs in threads off the event loop."""

    def __init__(self, bundle: Bundle, store: HistoryStore, keys: Sequence[str]) -> None:
        self.bundle, self.store, self.keys = bundle, store, keys
        self.recommender = Recommender(bundle, histories=store)
        self.monitoring = Monitoring(model_version=bundle.version)

    def private_routes(self) -> APIRouter:
        """Return the routes that need a key where keys are set."""
        router = APIRouter(dependencies=[Depends(self._check_key)])
        router.post("/v1/recommend")(self.recommend)
        router.get("/v1/users/{user_id}/recommendations")(self.recommend_to_user)
        router.get("/v1/users/{user_id}/history")(self.history)
        router.post("/v1/events")(self.store_events)
        router.delete("/v1/users/{user_id}")(self.forget)
        router.get("/v1/domains")(self.domains)
        router.get("/v1/model")(self.model)
        router.get("/metrics", response_class=PlainTextResponse)(self.metrics)
        return router

    def open_routes(self) -> APIRouter:
        """Return the routes that never need a key."""
        router = APIRouter()
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

    def recommend_to_user(
        self, user_id: str, domain: str, k: Annotated[int, Query(ge=1, le=MAX_K)] = 10
    ) -> Answer:
        """Recommend items of a domain to a known user."""
        return self.recommend(RecommendBody(domain=domain, user_id=user_id, k=k))

    def history(self, user_id: str) -> UserHistory:
        """Return what is stored of a user."""
        restored = restore_id(user_id, self.bundle.user_id_type, field="user_id")
        events = [
            {"item_id": event.item_id, "domain": event.domain, "timestamp": event.timestamp}
            for event in self.store.read(restored)
        ]
        return UserHistory.model_validate({"user_id": restored, "events": events})

    def store_events(self, body: EventsBody) -> EventsStored:
        """Store events; they are on disk before the answer, and the next answer knows them."""
        new = []
        for place, event in enumerate(body.events):
            name = f"events[{place}]"
            self.bundle.catalogue.domain_index(event.domain)
            user_id = restore_id(event.user_id, self.bundle.user_id_type, field=f"{name}.user_id")
            item_id = restore_id(event.item_id, self.bundle.item_id_type, field=f"{name}.item_id")
            new.append(NewEvent(event.event_id, user_id, item_id, event.domain, event.timestamp))
        accepted, duplicates = self.store.append(new)
        self.monitoring.stored(accepted=accepted, duplicates=duplicates)
        return EventsStored(accepted=accepted, duplicates=duplicates)

    def forget(self, user_id: str) -> Forgotten:
        """Erase all that is stored of a user."""
        restored = restore_id(user_id, self.bundle.user_id_type, field="user_id")
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

    def _check_key(self, request: Request) -> None:
        if self.keys and not has_key(request, self.keys):
            raise HTTPException(401, "send a valid key as X-API-Key or as a bearer token")


def _problem(
    status: int,
    title: str,
    detail: str,
    *,
    field: str | None = None,
    value: object = None,
    allowed: str | None = None,
) -> JSONResponse:
    # Plain values are shown as they came; others as short text, because NaN is no JSON.
    shown = value if isinstance(value, str | int | None) else repr(value)
    problem = Problem(
        title=title,
        status=status,
        detail=detail,
        field=field,
        value=shown[:200] if isinstance(shown, str) else shown,
        allowed=allowed,
    )
    return JSONResponse(
        problem.model_dump(exclude_none=True), status, media_type="application/problem+json"
    )


def _request_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _problem(
        422,
        "The request is not valid",
        error.message,
        field=error.field,
        value=error.value,
        allowed=error.allowed,
    )


def _validation_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    details = error.errors()
    first = details[0]
    named = [".".join(str(part) for part in one["loc"][1:]) or "body" for one in details]
    sentences = [f"{name}: {one['msg']}" for name, one in zip(named, details, strict=True)]
    return _problem(
        422,
        "The request is not valid",
        "; ".join(sentences[:10]),
        field=named[0],
        value=first.get("input"),
        allowed=first["msg"],
    )


def _store_problem(request: Request, error: Exception) -> Response:
    return _problem(503, "The history store does not answer", "try again later")


def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, "The request cannot be answered", str(error.detail))


def _unexpected_problem(request: Request, error: Exception) -> Response:
    return _problem(500, "Something went wrong", "the service's log tells more")
