"""What an operator sees: Prometheus metrics and one log line per request, without personal data."""

from __future__ import annotations

import json
import logging
import secrets
import time
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crossfeed.serving.recommender import Recommendations

__all__ = ["REQUEST_LOG", "Monitoring", "RequestLog"]

REQUEST_LOG = "crossfeed.requests"
"""Name of the logger that gets one line of JSON per request."""

_log = logging.getLogger(REQUEST_LOG)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Monitoring:
    """Counters of one application, in a registry of its own, and its request log."""

    def __init__(self, *, model_version: str) -> None:
        self._registry = registry = CollectorRegistry()
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
        self._recommendations = Counter(
            "crossfeed_recommendations",
            "Recommendations by domain and fallback.",
            ["domain", "fallback"],
            registry=registry,
        )
        self._events = Counter(
            "crossfeed_events", "Events by outcome.", ["outcome"], registry=registry
        )
        model = Gauge("crossfeed_model", "The model in service.", ["version"], registry=registry)
        model.labels(version=model_version).set(1)

    def page(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def recommended(self, domain: str, found: Recommendations) -> None:
        """Count one answered request for recommendations."""
        self._recommendations.labels(domain=domain, fallback=found.fallback or "none").inc()

    def stored(self, *, accepted: int, duplicates: int) -> None:
        """Count events by what became of them."""
        self._events.labels(outcome="accepted").inc(accepted)
        self._events.labels(outcome="duplicate").inc(duplicates)

    def answered(
        self, *, request_id: str, method: str, route: str, status: int, seconds: float
    ) -> None:
        """Count and log one answer; the route is a template, so that no id is in it."""
        self._requests.labels(route=route, status=status).inc()
        self._seconds.labels(route=route).observe(seconds)
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": "request",
            "request_id": request_id,
            "method": method,
            "route": route,
            "status": status,
            "took_ms": round(seconds * 1000, 2),
        }
        _log.info("%s", json.dumps(line))


class RequestLog:
    """Times every request, names it, and tells the monitoring."""

    def __init__(self, app: ASGIApp, *, monitoring: Monitoring) -> None:
        self.app, self.monitoring = app, monitoring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and note how it was answered."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        request_id = secrets.token_hex(8)

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
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            self.monitoring.answered(
                request_id=request_id,
                method=scope["method"],
                route=route,
                status=status,
                seconds=time.perf_counter() - began,
            )
