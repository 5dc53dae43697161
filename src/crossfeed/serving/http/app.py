"""The HTTP service: the routes of docs/serving.md over a recommender and a history store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Literal, Protocol

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import PlainTextResponse, Response
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException

from crossfeed import __version__
from crossfeed.bundle import Bundle
from crossfeed.errors import BundleError, HistoryStoreError, RequestError, UnknownDomainError
from crossfeed.model.onnx.runtime import OnnxEncoder
from crossfeed.serving.engine.batching import BatchingThreads
from crossfeed.serving.engine.reload import ModelInService, Reloaded, check_answers
from crossfeed.serving.histories.availability import Availability, ItemFlag
from crossfeed.serving.histories.guarded_store import GuardedStore
from crossfeed.serving.histories.history import HistoryStore, NewEvent
from crossfeed.serving.http.answering import Asked, answer_all
from crossfeed.serving.http.guards.guards import add_guards, add_problem_handlers
from crossfeed.serving.http.guards.limits import Limits
from crossfeed.serving.http.guards.security import ApiKey
from crossfeed.serving.http.hot_route import HotRoute, json_body, query
from crossfeed.serving.http.problems import problem
from crossfeed.serving.http.schemas import (
    AvailabilityBody,
    AvailabilityStored,
    DomainFacts,
    EventBody,
    EventsBody,
    EventsStored,
    Forgotten,
    ItemFlagBody,
    ModelFacts,
    Problem,
    Readiness,
    RecommendBody,
    ReloadFacts,
    StoreFacts,
    UserHistory,
    WantedBody,
)
from crossfeed.serving.ids import Id, restore_id
from crossfeed.serving.operations.metric_pages import merged
from crossfeed.serving.operations.monitoring import Monitoring
from crossfeed.serving.operations.tracing import Tracing
from crossfeed.serving.recommend.fallback import Fallbacks

__all__ = ["Service", "create_app"]

_DEFAULTS = Limits()

_THREADS = 2
"""Batches of recommendations in work at once: one computes while another waits for the store."""
_CHECK_SECONDS = 1.0
"""How long `/health/ready` waits for the history store."""
_UNREACHABLE = StoreFacts(reachable=False, durable=None, durability="unknown at the moment")


def create_app(
    bundle: Bundle,
    *,
    store: HistoryStore,
    keys: Sequence[ApiKey] = (),
    limits: Limits = _DEFAULTS,
    fallbacks: Fallbacks | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """Make the service; its `state.service` can reload the model.

    Args:
        bundle: the model in service.
        store: what users did; it is filled from the bundle's histories when it is new, and
            closed with the application.
        keys: API keys of which a request must bring one; none means that everybody may ask.
        limits: what the process takes on.
        fallbacks: what domains fall back on where nothing is known of a user.
        tracing: records requests and their stages; closed with the application.
    """
    service = Service(bundle, store, fallbacks=fallbacks, tracing=tracing)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            store.bulk.fill(bundle.histories(), origin=bundle.version)
            check_answers(bundle, fallbacks=fallbacks)  # loads the model before the first request
            service.monitoring.started(str(store), store.durability())
            yield
        finally:
            await service.threads.close()
            store.close()
            if tracing is not None:
                tracing.close()

    app = FastAPI(
        title="crossfeed",
        version=__version__,
        lifespan=lifespan,
        responses={422: {"model": Problem}, 503: {"model": Problem}},
    )
    app.state.service = service
    app.router.routes[:0] = service.hot_routes()  # the first to be looked at
    app.include_router(service.routes())
    app.add_exception_handler(HistoryStoreError, service.store_problem)
    add_problem_handlers(app)
    add_guards(app, monitoring=service.monitoring, keys=keys, limits=limits, tracing=tracing)
    return app


class Colleagues(Protocol):
    """All workers of one port."""

    def reload(self) -> Reloaded:
        """Put another model into service in all of them, or raise BundleError and in none."""

    def pages(self) -> Mapping[str, str]:
        """Return the metrics of each of them."""


class _AnyText(StringConvertor):
    """Any id in a URL, also one with slashes or line breaks."""

    regex = "(?s:.*)"


register_url_convertor("any", _AnyText())


class Service:
    """The handlers. Plain functions are run by FastAPI in threads off the event loop."""

    def __init__(
        self,
        bundle: Bundle,
        store: HistoryStore,
        *,
        fallbacks: Fallbacks | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.tracing = tracing
        self.monitoring = Monitoring(model_version=bundle.version)
        self.store = GuardedStore(
            lambda: store, took=self.monitoring.store_took, failed=self.monitoring.store_failed
        )
        self.model = ModelInService(
            bundle,
            histories=self.store,
            availability=Availability(self.store),
            fallbacks=fallbacks,
        )
        self.threads = BatchingThreads(self.answer_all, threads=_THREADS)
        self.colleagues: Colleagues | None = None
        """All workers of this port together, where there are several."""
        self.stopping = False
        """Whether no new work should be sent here."""
        self._checking: asyncio.Task[StoreFacts] | None = None

    def hot_routes(self) -> list[HotRoute]:
        """Return the routes that are asked most."""
        user, ask = "/v1/users/{user_id:any}/recommendations", "/v1/recommend"
        return [
            HotRoute("POST", ask, self.recommend, read=json_body("body", RecommendBody)),
            HotRoute("GET", user, self.recommend_to_user, read=query("wanted", WantedBody)),
        ]

    def routes(self) -> APIRouter:
        """Return the other routes."""
        router = APIRouter()
        router.get("/v1/users/{user_id:any}/history")(self.history)
        router.post("/v1/events")(self.store_events)
        router.delete("/v1/users/{user_id:any}")(self.forget)
        router.put("/v1/items/availability")(self.set_available)
        router.get("/v1/domains")(self.domains)
        router.get("/v1/model")(self.model_facts)
        router.post("/v1/model/reload", responses={409: {"model": Problem}})(self.reload)
        router.get("/metrics", response_class=PlainTextResponse)(self.metrics)
        router.get("/health/live")(self.live)
        router.get("/health/ready")(self.ready)
        return router

    def answer_all(self, asked: Sequence[Asked]) -> list[bytes | Exception]:
        """Answer requests for recommendations together, off the event loop."""
        return answer_all(asked, model=self.model, monitoring=self.monitoring, tracing=self.tracing)

    async def recommend(self, body: RecommendBody) -> bytes:
        """Recommend items of a domain, or of several, to a known user or to a history.

        Where the history store does not answer, a known user gets what a new one would.
        """
        trace = self.tracing.current() if self.tracing else None
        return await self.threads.run(Asked(body, trace=trace))

    async def recommend_to_user(
        self, user_id: str, wanted: Annotated[WantedBody, Query()]
    ) -> bytes:
        """Recommend items of a domain to a known user."""
        restored = self._user(user_id)
        return await self.recommend(
            RecommendBody(domain=wanted.domain, user_id=restored, k=wanted.k)
        )

    def history(self, user_id: str) -> UserHistory:
        """Return what is stored of a user."""
        restored = self._user(user_id)
        events = [
            {"item_id": event.item_id, "domain": event.domain, "timestamp": event.timestamp}
            for event in self.store.read_many([restored])[0]
        ]
        return UserHistory.model_validate({"user_id": restored, "events": events})

    def store_events(self, body: EventsBody) -> EventsStored:
        """Store events; they are on disk before the answer, and the next answer knows them."""
        bundle = self.model.bundle
        new = [
            _new_event(event, f"events[{place}]", bundle) for place, event in enumerate(body.events)
        ]
        began = time.perf_counter()
        accepted, duplicates = self.store.append(new)
        if self.tracing:
            self.tracing.took("write", self.tracing.current(), began)
        self.monitoring.stored(accepted=accepted, duplicates=duplicates)
        return EventsStored(accepted=accepted, duplicates=duplicates)

    def forget(self, user_id: str) -> Forgotten:
        """Erase all that is stored of a user."""
        restored = self._user(user_id)
        return Forgotten(user_id=restored, forgotten=self.store.forget(restored))

    def set_available(self, body: AvailabilityBody) -> AvailabilityStored:
        """Set which items may be recommended; on disk before the answer, and the next knows it."""
        bundle = self.model.bundle
        flags = [
            _item_flag(flag, f"items[{place}]", bundle) for place, flag in enumerate(body.items)
        ]
        return AvailabilityStored(changed=self.store.set_available(flags))

    def domains(self) -> list[DomainFacts]:
        """Return the domains that can be asked for."""
        catalogue = self.model.bundle.catalogue
        return [
            DomainFacts(domain=name, items=int(items))
            for name, items in zip(catalogue.domains, catalogue.known, strict=True)
        ]

    def model_facts(self) -> ModelFacts:
        """Return what is known of the model in service."""
        bundle = self.model.bundle
        return ModelFacts(
            model_version=bundle.version,
            crossfeed=bundle.about["crossfeed"],
            encoder="onnxruntime" if isinstance(bundle.encoder, OnnxEncoder) else "torch",
            card=bundle.card,
        )

    def reload(self) -> ReloadFacts:
        """Put what lies in the bundle's folder now into service, unless it fails its check."""
        reloaded = self.reload_model()
        if reloaded is None:
            stays = f"model {self.model.bundle.version} stays in service; the log tells why"
            raise HTTPException(409, f"the new bundle was refused; {stays}")
        return ReloadFacts(model_version=reloaded.version, changed=reloaded.changed)

    def reload_model(self) -> Reloaded | None:
        """Do what `reload` does, and log it; return None where the model in service stays."""
        try:
            if self.colleagues:
                return self.colleagues.reload()  # each logs for itself
            reloaded = self.model.reload()
        except BundleError as error:
            if not self.colleagues:
                self.monitoring.reload_failed(error)
            return None
        self.monitoring.reloaded(reloaded)
        return reloaded

    async def metrics(self) -> Response:
        """Return the metrics in Prometheus' text format, of all workers of this port."""
        return PlainTextResponse(await asyncio.to_thread(self._metrics_page))

    async def live(self) -> dict[str, str]:
        """Return that the process answers."""
        return {"status": "live"}

    async def ready(self, response: Response) -> Readiness:
        """Return whether requests should be sent here, and what of the service is impaired.

        `degraded` is 200: recommendations are answered as for new users, and where replicas share
        a store, taking all of them away would leave nobody to answer at all.
        """
        response.status_code = 503 if self.stopping else 200
        store = await self._store_facts_in_time()
        able: Literal["ready", "degraded"] = "ready" if store.reachable else "degraded"
        return Readiness(
            status="stopping" if self.stopping else able,
            model_version=self.model.bundle.version,
            history_store=store,
        )

    def store_problem(self, request: Request, error: Exception) -> Response:
        """Answer that the store fails; what of it, the log tells and not the answer."""
        self.monitoring.failed(error, request_id=request.state.request_id)
        answer = problem(503, "The history store does not answer", "try again later")
        answer.headers["retry-after"] = "1"
        return answer

    def _user(self, text: str) -> Id:
        return restore_id(text, self.model.bundle.user_id_type, field="user_id")

    def _metrics_page(self) -> bytes:
        return merged(self.colleagues.pages()) if self.colleagues else self.monitoring.page()

    async def _store_facts_in_time(self) -> StoreFacts:
        """Return how the store is; who asks while it is being asked shares the answer."""
        if self._checking is None or self._checking.done():
            # asyncio's threads, as FastAPI's may all be waiting for the store.
            self._checking = asyncio.create_task(asyncio.to_thread(self._store_facts))
        done, _ = await asyncio.wait({self._checking}, timeout=_CHECK_SECONDS)
        return self._checking.result() if done else _UNREACHABLE

    def _store_facts(self) -> StoreFacts:
        try:
            found = self.store.check()
        except HistoryStoreError:
            return _UNREACHABLE
        self.monitoring.store_durable(found)
        return StoreFacts(reachable=True, durable=found.kept, durability=found.sentence)


def _check_domain(domain: str, name: str, bundle: Bundle) -> None:
    domains = bundle.catalogue.domains
    if domain not in domains:
        unknown = UnknownDomainError(domain, domains)
        raise RequestError(
            unknown.message, field=f"{name}.domain", value=domain, allowed=unknown.allowed
        )


def _item_flag(flag: ItemFlagBody, name: str, bundle: Bundle) -> ItemFlag:
    _check_domain(flag.domain, name, bundle)
    item_id = restore_id(flag.item_id, bundle.item_id_type, field=f"{name}.item_id")
    return ItemFlag(item_id, flag.domain, flag.available)


def _new_event(event: EventBody, name: str, bundle: Bundle) -> NewEvent:
    _check_domain(event.domain, name, bundle)
    user_id = restore_id(event.user_id, bundle.user_id_type, field=f"{name}.user_id")
    item_id = restore_id(event.item_id, bundle.item_id_type, field=f"{name}.item_id")
    return NewEvent(event.event_id, user_id, item_id, event.domain, event.timestamp)
