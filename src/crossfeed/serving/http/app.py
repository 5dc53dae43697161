"""The HTTP service: the routes of docs/serving.md over a recommender and a history store."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Literal

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.responses import PlainTextResponse, Response
from starlette.exceptions import HTTPException

from crossfeed.bundle import Bundle
from crossfeed.errors import (
    BundleError,
    HistoryStoreError,
    UnknownVersionError,
)
from crossfeed.model.onnx.runtime import OnnxEncoder
from crossfeed.serving.engine.batching import BatchingThreads
from crossfeed.serving.engine.in_service import Following, ModelInService
from crossfeed.serving.engine.versions import Versions
from crossfeed.serving.histories.availability import ItemFlag
from crossfeed.serving.histories.guarded_store import GuardedStore
from crossfeed.serving.histories.history import Durability, HistoryStore, NewEvent
from crossfeed.serving.http.answering import PendingQuery, answer_all
from crossfeed.serving.http.description import DescribedApi, description_routes
from crossfeed.serving.http.guards.access import Access
from crossfeed.serving.http.guards.guards import add_guards, add_problem_handlers
from crossfeed.serving.http.guards.limits import Limits
from crossfeed.serving.http.guards.security import ApiKey
from crossfeed.serving.http.problems import problem
from crossfeed.serving.http.route import Route
from crossfeed.serving.http.schemas import (
    Answer,
    AvailabilityBody,
    AvailabilityStored,
    DomainFacts,
    EventBody,
    EventsBody,
    EventsStored,
    Forgotten,
    HistoryParameters,
    ItemFlagBody,
    ModelFacts,
    PinBody,
    PinFacts,
    Readiness,
    RecommendBody,
    RecommendParameters,
    StoreFacts,
    UserHistory,
)
from crossfeed.serving.ids import Id, restore_id
from crossfeed.serving.operations.monitoring import Monitoring
from crossfeed.serving.operations.tracing import Tracing
from crossfeed.serving.operations.worker_folder import WorkerFolder
from crossfeed.serving.recommend.fallback import Fallbacks
from crossfeed.serving.recommend.query import Query as RecommendQuery

__all__ = ["Service", "create_app"]

_DEFAULTS = Limits()
_ANYWHERE = Access()

_THREADS = 2
"""Batches of recommendations in work at once: one computes while another waits for the store."""
_CHECK_SECONDS = 1.0
"""How long `/health/ready` waits for the history store, and how long it believes the answer."""
_UNREACHABLE = StoreFacts(reachable=False, durable=None, durability="unknown at the moment")


def create_app(
    bundle: Bundle,
    *,
    store: HistoryStore | Callable[[], HistoryStore],
    versions: Versions | None = None,
    keys: Sequence[ApiKey] = (),
    limits: Limits = _DEFAULTS,
    access: Access = _ANYWHERE,
    fallbacks: Fallbacks | None = None,
    tracing: Tracing | None = None,
    workers: WorkerFolder | None = None,
) -> FastAPI:
    """Make the service.

    Args:
        bundle: the model in service; it was checked.
        store: what users did, or what opens it; it is filled from the bundle's histories when it
            is new, and closed with the application.
        versions: where other models lie that may be pinned; by default in the bundle's folder.
        keys: API keys, one of them required in each request; without keys everybody may ask.
        limits: what the process takes on.
        access: which hosts are answered, and which other sites' pages may ask.
        fallbacks: what domains fall back on where nothing is known of a user.
        tracing: records requests and their stages; closed with the application.
        workers: what this process shares with others of its port.
    """
    opened = store if callable(store) else (lambda: store)
    service = Service(
        bundle, opened, versions=versions, fallbacks=fallbacks, tracing=tracing, workers=workers
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            await service.start()
            yield
        finally:
            await service.close()

    app = DescribedApi(lifespan=lifespan)
    app.state.service = service
    app.router.routes[:0] = service.routes()
    app.router.routes += description_routes()
    app.add_exception_handler(HistoryStoreError, service.store_problem)
    add_problem_handlers(app)
    add_guards(
        app,
        monitoring=service.monitoring,
        keys=keys,
        limits=limits,
        access=access,
        tracing=tracing,
    )
    return app


class Service:
    """The handlers. Plain functions run in threads off the event loop."""

    def __init__(
        self,
        bundle: Bundle,
        open_store: Callable[[], HistoryStore],
        *,
        versions: Versions | None = None,
        fallbacks: Fallbacks | None = None,
        tracing: Tracing | None = None,
        workers: WorkerFolder | None = None,
    ) -> None:
        self.tracing = tracing
        self.monitoring = Monitoring(
            model_version=bundle.version, shared=workers.metrics if workers else None
        )
        self._workers = workers
        self.store = GuardedStore(
            open_store, took=self.monitoring.store_took, failed=self.monitoring.store_failed
        )
        self.model = ModelInService(
            bundle,
            store=self.store,
            versions=versions,
            fallbacks=fallbacks,
            changed=self._model_changed,
            failed=self.monitoring.model_failed,
            settled=self.monitoring.model_settled,
        )
        self._following = Following(self.model)
        self.threads = BatchingThreads(self.answer_all, threads=_THREADS)
        self.stopping = False
        """Whether no new work should be sent here."""
        self._checked = (_UNREACHABLE, -math.inf)
        self._knows_durability = False
        self._checking: asyncio.Task[StoreFacts] | None = None

    async def start(self) -> None:
        """Fill the store if it is new, serve the pinned model, and begin to follow the pin.

        A store that does not answer is tried again while requests are answered.
        """
        await asyncio.to_thread(self.model.follow)
        await self._store_facts_in_time()
        self._following.start()

    async def close(self) -> None:
        """Finish what waits, and let go of the store."""
        self._following.stop()
        await self.threads.close()
        self.store.close()
        if self.tracing is not None:
            self.tracing.close()

    def routes(self) -> list[Route]:
        """Return the routes, those that are asked most first."""
        user, recommend, items = "/v1/users/{user_id:segment}", "recommendations", "items"
        return [
            Route(
                *("POST", "/v1/recommend", self.recommend),
                answer=Answer,
                tag=recommend,
                body=RecommendBody,
            ),
            Route(
                *("GET", f"{user}/recommendations", self.recommend_to_user),
                answer=Answer,
                tag=recommend,
                parameters=RecommendParameters,
            ),
            Route(
                *("POST", "/v1/events", self.store_events),
                answer=EventsStored,
                tag="users",
                body=EventsBody,
            ),
            Route(
                *("GET", f"{user}/history", self.history),
                answer=UserHistory,
                tag="users",
                parameters=HistoryParameters,
            ),
            Route("DELETE", user, self.forget, answer=Forgotten, tag="users"),
            Route(
                *("PUT", "/v1/items/availability", self.set_available),
                answer=AvailabilityStored,
                tag=items,
                body=AvailabilityBody,
            ),
            Route("GET", "/v1/domains", self.domains, answer=list[DomainFacts], tag="model"),
            Route("GET", "/v1/model", self.model_facts, answer=ModelFacts, tag="model"),
            Route(
                *("POST", "/v1/model/pin", self.pin),
                answer=PinFacts,
                tag="model",
                body=PinBody,
                problems={
                    404: "There is no such version.",
                    409: "The version is damaged or does not fit.",
                },
            ),
            Route(
                *("GET", "/metrics", self.metrics),
                answer=str,
                tag="operations",
                response_class=PlainTextResponse,
            ),
            Route(
                *("GET", "/health/live", self.live),
                answer=dict[str, str],
                tag="operations",
                open_to_all=True,
            ),
            Route(
                *("GET", "/health/ready", self.ready),
                answer=Readiness,
                tag="operations",
                open_to_all=True,
            ),
        ]

    def answer_all(self, pending: Sequence[PendingQuery]) -> list[bytes | Exception]:
        """Answer requests for recommendations together, off the event loop."""
        return answer_all(
            pending, model=self.model, monitoring=self.monitoring, tracing=self.tracing
        )

    async def recommend(self, body: RecommendBody) -> bytes:
        """Recommend items of a domain, or of several, to a known user or to a history.

        If the history store does not answer, a known user gets what a new one would.
        """
        return await self._answer(body.to_query())

    async def recommend_to_user(
        self, user_id: str, parameters: Annotated[RecommendParameters, Query()]
    ) -> bytes:
        """Recommend items of a domain to a known user."""
        return await self._answer(parameters.to_query(self._user(user_id)))

    async def _answer(self, query: RecommendQuery) -> bytes:
        trace = self.tracing.current() if self.tracing else None
        return await self.threads.run(PendingQuery(query, trace=trace))

    def history(
        self, user_id: str, parameters: Annotated[HistoryParameters, Query()]
    ) -> UserHistory:
        """Return the stored events of a user, oldest first: the newest ones, or an older page."""
        restored = self._user(user_id)
        newer, limit = parameters.after, parameters.limit
        [found] = self.store.read_many([restored], limit=newer + limit + 1)
        page = found[max(0, len(found) - newer - limit) : max(0, len(found) - newer)]
        more = len(found) > newer + limit
        return UserHistory.model_validate(
            {
                "user_id": restored,
                "events": [event._asdict() for event in page],
                "after": newer + limit if more else None,
            }
        )

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
            DomainFacts(domain=name, items=items)
            for name, items in zip(
                catalogue.domains, np.diff(catalogue.offsets).tolist(), strict=True
            )
        ]

    def model_facts(self) -> ModelFacts:
        """Return what is known of the model in service."""
        bundle = self.model.bundle
        return ModelFacts(
            model_version=bundle.version,
            pinned_version=self.model.pinned,
            versions=self._versions(),
            crossfeed=bundle.about["crossfeed"],
            encoder="onnxruntime" if isinstance(bundle.encoder, OnnxEncoder) else "torch",
            card=bundle.card,
        )

    def pin(self, body: PinBody) -> PinFacts:
        """Put a version into service in all processes that share the history store.

        Each of them loads and checks it beside the present one, and then switches.
        """
        try:
            pin = self.model.pin(body.version)
        except UnknownVersionError as error:
            raise HTTPException(404, error.message) from None
        except BundleError as error:
            self.monitoring.pin_refused(body.version, error)
            there = ", ".join(self._versions())
            raise HTTPException(
                409,
                f"version '{body.version}' is damaged or does not fit, the log tells why; model "
                f"{self.model.bundle.version} stays in service; there are: {there}",
            ) from None
        return PinFacts(pinned_version=pin.version, model_version=self.model.bundle.version)

    async def metrics(self) -> Response:
        """Return the metrics in Prometheus' text format, of all workers of this port."""
        return PlainTextResponse(await asyncio.to_thread(self.monitoring.page))

    async def live(self) -> dict[str, str]:
        """Return that the process answers."""
        return {"status": "live"}

    async def ready(self) -> Response:
        """Return whether requests should be sent here, and what of the service is impaired.

        `degraded` is 200: recommendations are answered as for new users, and where replicas share
        a store, taking all of them away would leave nobody to answer at all.
        """
        store = await self._store_facts_in_time()
        problem = self.model.problem
        whole = store.reachable and problem is None
        able: Literal["ready", "degraded"] = "ready" if whole else "degraded"
        readiness = Readiness(
            status="stopping" if self.stopping else able,
            model_version=self.model.bundle.version,
            pinned_version=self.model.pinned,
            problem=problem,
            history_store=store,
        )
        return Response(
            readiness.model_dump_json(),
            status_code=503 if self.stopping else 200,
            media_type="application/json",
        )

    def store_problem(self, request: Request, error: Exception) -> Response:
        """Answer that the store fails; what of it, the log tells and not the answer."""
        self.monitoring.failed(error, request_id=request.state.request_id)
        answer = problem(503, "The history store does not answer", "try again later")
        answer.headers["retry-after"] = "1"
        return answer

    def _user(self, text: str) -> Id:
        return restore_id(text, self.model.bundle.user_id_type, field="user_id")

    def _versions(self) -> list[str]:
        return [one.version for one in self.model.versions.found() if one.version]

    def _model_changed(self, version: str) -> None:
        self.monitoring.model_changed(version)
        if self._workers is not None:
            self._workers.remember(version)

    async def _store_facts_in_time(self) -> StoreFacts:
        """Return how the store is; requests share a question to it and, for a while, its answer."""
        found, since = self._checked
        if time.monotonic() < since + _CHECK_SECONDS:
            return found
        if self._checking is None or self._checking.done():
            # asyncio's threads, as FastAPI's may all be waiting for the store.
            self._checking = asyncio.create_task(asyncio.to_thread(self._store_facts))
        done, _ = await asyncio.wait({self._checking}, timeout=_CHECK_SECONDS)
        return self._checking.result() if done else _UNREACHABLE

    def _store_facts(self) -> StoreFacts:
        try:
            found = self.store.check()
        except HistoryStoreError:
            facts = _UNREACHABLE
        else:
            self._note_durability(found)
            facts = StoreFacts(reachable=True, durable=found.kept, durability=found.sentence)
        self._checked = (facts, time.monotonic())
        return facts

    def _note_durability(self, found: Durability) -> None:
        """Note what the store promises, and log it when it is known for the first time."""
        if self._knows_durability:
            self.monitoring.store_durable(found)
        else:
            self._knows_durability = True
            self.monitoring.started(str(self.store), found)


def _item_flag(flag: ItemFlagBody, name: str, bundle: Bundle) -> ItemFlag:
    item_id = restore_id(flag.item_id, bundle.item_id_type, field=f"{name}.item_id")
    return ItemFlag(item_id, flag.domain, flag.available)


def _new_event(event: EventBody, name: str, bundle: Bundle) -> NewEvent:
    user_id = restore_id(event.user_id, bundle.user_id_type, field=f"{name}.user_id")
    item_id = restore_id(event.item_id, bundle.item_id_type, field=f"{name}.item_id")
    return NewEvent(event.event_id, user_id, item_id, event.domain, event.timestamp)
