"""Prometheus metrics and one log line per request, without personal data."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crossfeed.errors import CrossfeedError, HistoryStoreError
from crossfeed.serving.histories.history import Durability
from crossfeed.serving.operations.log_writer import dropped_lines, write_logs
from crossfeed.serving.recommend.answers import Step

__all__ = ["REQUEST_LOG", "Monitoring", "RequestLog", "log_requests"]

REQUEST_LOG = "crossfeed.requests"
"""Name of the logger that gets one line of JSON per request and per accident."""

_log = logging.getLogger(REQUEST_LOG)
_WORKERS_LOG = "crossfeed.serving.process"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Monitoring:
    """Counters of one application, in a registry of its own, and its request log."""

    def __init__(self, *, model_version: str, shared: Path | None = None) -> None:
        """Begin to count.

        Args:
            model_version: the model in service.
            shared: the folder in which all workers of a port count (prometheus_client's
                multiprocess mode); by default this process counts alone.
        """
        self._registry = registry = CollectorRegistry()
        self._shared = shared
        self._version = model_version
        self._known_dropped = dropped_lines(_log)
        self._requests = Counter(
            "crossfeed_requests", "Answered requests.", ["route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "crossfeed_request_seconds",
            "Time from request to answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = Histogram(
            "crossfeed_stage_seconds",
            "Time by stage; the history store works for all domains at once.",
            ["stage", "domain"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._recommendations = Counter(
            "crossfeed_recommendations",
            "Recommendations by domain, fallback and what was known of the user.",
            ["domain", "fallback", "user"],
            registry=registry,
        )
        self._events = Counter(
            "crossfeed_events", "Events by outcome.", ["outcome"], registry=registry
        )
        self._store_errors = Counter(
            "crossfeed_store_errors",
            "Failures of the history store.",
            ["operation"],
            registry=registry,
        )
        self._durable = Gauge(
            "crossfeed_store_durable",
            "1 if acknowledged events outlive a crash, as the store was set up when last asked.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._switches = Counter(
            "crossfeed_model_switches",
            "Changes to the pinned model by outcome.",
            ["outcome"],
            registry=registry,
        )
        self._model = Gauge(
            "crossfeed_model",
            "How many processes serve a version.",
            ["version"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._unpinned = Gauge(
            "crossfeed_model_problem",
            "How many processes cannot serve the pinned version.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._model.labels(version=model_version).set(1)
        self._dropped = Counter(
            "crossfeed_log_lines_dropped",
            "Lines of the log that were dropped because nobody read fast enough.",
            registry=registry,
        )
        self._unpinned.set(0)

    def page(self) -> bytes:
        """Return the metrics in Prometheus' text format, of all processes that count together."""
        self._count_dropped()
        if self._shared is None:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together, path=str(self._shared))  # type: ignore[no-untyped-call]
        return generate_latest(together)

    def recommended(
        self,
        domain: str,
        fallback: Step | None,
        *,
        degraded: bool,
        held_back: bool,
    ) -> None:
        """Count the answer of one domain.

        Args:
            domain: the target domain; one that exists, so that their number is bounded.
            fallback: the last step of the fallback that was needed, if any was.
            degraded: the history store did not answer.
            held_back: the domain is served by popularity, whatever is known of the user.
        """
        cold = "cold" if fallback else "known"
        user = "unreachable" if degraded else "not asked" if held_back else cold
        self._recommendations.labels(domain=domain, fallback=fallback or "none", user=user).inc()

    def took(self, stage: str, seconds: float, *, domain: str = "") -> None:
        """Note the time of a stage; a feed and the history store work for no one domain."""
        self._stages.labels(stage=stage, domain=domain).observe(seconds)

    def store_took(self, operation: str, seconds: float) -> None:
        """Note the time of one operation of the history store."""
        self.took(f"store_{operation}", seconds)

    def store_failed(self, operation: str, error: HistoryStoreError) -> None:
        """Count and log one failure of the history store; its message never names a user."""
        self._store_errors.labels(operation=operation).inc()
        facts = {"operation": operation, "message": error.message}
        _write(logging.ERROR, "store error", facts)

    def started(self, store: str, durability: Durability) -> None:
        """Log what the history store promises."""
        self.store_durable(durability)
        level = logging.INFO if durability.kept else logging.WARNING
        facts = {"store": store, "durable": durability.kept, "durability": durability.sentence}
        _write(level, "history store", facts)

    def store_durable(self, durability: Durability) -> None:
        """Note whether the history store keeps what it acknowledged."""
        self._durable.set(durability.kept)

    def model_changed(self, version: str) -> None:
        """Count and log that another model is in service."""
        self._switches.labels(outcome="changed").inc()
        self._model.labels(version=self._version).set(0)
        self._model.labels(version=version).set(1)
        self._version = version
        _write(logging.INFO, "model", {"version": version})

    def model_failed(self, version: str, error: CrossfeedError) -> None:
        """Count and log that the pinned model cannot be served; the one in service stays."""
        self._switches.labels(outcome="failed").inc()
        self._unpinned.set(1)
        facts = {"pinned": version, "serving": self._version, "message": str(error)}
        _write(logging.ERROR, "model failed", facts)

    def model_settled(self) -> None:
        """Note that the pinned model is in service."""
        self._unpinned.set(0)

    def pin_refused(self, version: str, error: CrossfeedError) -> None:
        """Log why a version cannot be pinned."""
        _write(logging.ERROR, "pin refused", {"version": version, "message": str(error)})

    def stored(self, *, accepted: int, duplicates: int) -> None:
        """Count events by outcome."""
        self._events.labels(outcome="accepted").inc(accepted)
        self._events.labels(outcome="duplicate").inc(duplicates)

    def answered(
        self, *, request_id: str, method: str, route: str, status: int, seconds: float
    ) -> None:
        """Count and log one answer; the route is a template, so that no id is in it."""
        self._requests.labels(route=route, status=status).inc()
        self._seconds.labels(route=route).observe(seconds)
        facts = {
            "request_id": request_id,
            "method": method,
            "route": route,
            "status": status,
            "took_ms": round(seconds * 1000, 2),
        }
        _write(logging.INFO, "request", facts)
        self._count_dropped()

    def failed(self, error: Exception, *, request_id: str) -> None:
        """Log what went wrong inside, without any value: a value may be somebody's id."""
        frames = traceback.extract_tb(error.__traceback__)
        facts: dict[str, object] = {
            "request_id": request_id,
            "error": type(error).__name__,
            "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-8:]],
        }
        if isinstance(error, HistoryStoreError):  # it names the store and never a user
            facts["message"] = error.message
        _write(logging.ERROR, "error", facts)

    def _count_dropped(self) -> None:
        dropped = dropped_lines(_log)
        if dropped != self._known_dropped:
            self._dropped.inc(dropped - self._known_dropped)
            self._known_dropped = dropped


def log_requests() -> None:
    """Send the request log to stderr as it is, one line of JSON each; likewise uvicorn's warnings.

    A thread writes them: nobody waits while nobody reads stderr.
    """
    write_logs(REQUEST_LOG, level=logging.INFO)
    write_logs("uvicorn.error", _WORKERS_LOG, level=logging.WARNING)


class RequestLog:
    """Times every request, names it, and tells the monitoring once the answer is on its way."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        monitoring: Monitoring,
        failure: Response,
        routes: Sequence[BaseRoute],
    ) -> None:
        self.app, self.monitoring, self.failure, self.routes = app, monitoring, failure, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and note how it was answered; answer `failure` where it was not."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        request_id = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        try:
            await self.app(scope, receive, note)
        except Exception as error:
            self.monitoring.failed(error, request_id=request_id)
            if status:
                raise  # too late to answer anything else
            await self.failure(scope, receive, note)
        finally:
            if "route" not in scope:  # it was refused on the way to its route
                scope["route"] = _route_of(scope, self.routes)
            answered = partial(
                self.monitoring.answered,
                request_id=request_id,
                method=scope["method"],
                route=getattr(scope.get("route"), "path_format", "unknown"),
                status=status,
                seconds=time.perf_counter() - began,
            )
            # What was sent leaves when the loop is free: counting and logging come after it.
            asyncio.get_running_loop().call_soon(answered)


def _route_of(scope: Scope, routes: Sequence[BaseRoute]) -> BaseRoute | None:
    """Return the route that a request was for, if there is any."""
    found = {route.matches(scope)[0]: route for route in reversed(routes)}
    return found.get(Match.FULL) or found.get(Match.PARTIAL)


def _write(level: int, event: str, facts: Mapping[str, object]) -> None:
    """Log one line of JSON."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    _log.log(level, "%s", json.dumps({"time": now, "event": event, **facts}))
