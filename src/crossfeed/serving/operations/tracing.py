"""OpenTelemetry: a span per request and one per stage of its work; nothing in them names a user.

Off unless asked for. What is sent where is set by the standard variables: OTEL_SERVICE_NAME,
OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER and their like.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crossfeed.errors import MissingExtraError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["TraceRequests", "Tracing", "tracing_from_environment"]

_log = logging.getLogger(__name__)

_PACKAGES = ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter")

_ASKED_BY = (
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
)


class Tracing:
    """Makes spans with a provider of OpenTelemetry's SDK."""

    def __init__(self, provider: TracerProvider) -> None:
        """Make spans with a provider; it is shut down by `close`."""
        from opentelemetry import context, propagate, trace

        self._context, self._propagate, self._trace = context, propagate, trace
        self._provider = provider
        self._tracer = provider.get_tracer("crossfeed")

    def current(self) -> Context:
        """Return what spans of other threads can be children of."""
        return self._context.get_current()

    def took(self, stage: str, parent: Context, began: float, **attributes: str) -> None:
        """Record a stage that ends now.

        Args:
            stage: its name.
            parent: what `current` returned where the request is handled.
            began: seconds of `time.perf_counter`.
            attributes: facts about it.
        """
        end = time.time_ns()
        start = end - round((time.perf_counter() - began) * 1e9)
        span = self._tracer.start_span(
            stage, context=parent, start_time=start, attributes=attributes
        )
        span.end(end)

    @contextmanager
    def request(self, scope: Scope) -> Iterator[dict[str, object]]:
        """Record a request; yield a mapping for the facts that are known at its end."""
        carrier = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
        }
        facts: dict[str, object] = {}
        with self._tracer.start_as_current_span(
            scope["method"],
            context=self._propagate.extract(carrier),
            kind=self._trace.SpanKind.SERVER,
            record_exception=False,  # its text may hold a value, and a value may be an id
            set_status_on_exception=False,
        ) as span:
            yield facts
            route = getattr(scope.get("route"), "path_format", "unknown")
            span.update_name(f"{scope['method']} {route}")
            span.set_attribute("http.request.method", scope["method"])
            span.set_attribute("http.route", route)
            status = facts.get("status", 500)
            assert isinstance(status, int)
            span.set_attribute("http.response.status_code", status)
            if status >= 500:
                span.set_status(self._trace.StatusCode.ERROR)

    def close(self) -> None:
        """Send what waits, and end."""
        self._provider.shutdown()


class TraceRequests:
    """Records every request."""

    def __init__(self, app: ASGIApp, *, tracing: Tracing) -> None:
        self.app, self.tracing = app, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on inside of a span."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with self.tracing.request(scope) as facts:

            async def note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    facts["status"] = message["status"]
                await send(message)

            await self.app(scope, receive, note)


def tracing_from_environment(*, asked: bool) -> Tracing | None:
    """Return tracing as the variables OTEL_* set it up; None where nobody asked for it.

    Args:
        asked: whether it is asked for, also where no variable says so.

    Raises:
        MissingExtraError: it is asked for, and the extra `otel` is not installed.
    """
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "otlp")
    wanted = asked or any(os.environ.get(name) for name in _ASKED_BY)
    if not wanted or exporter == "none":
        return None
    if not all(map(importlib.util.find_spec, _PACKAGES)):
        if asked:
            raise MissingExtraError(package="opentelemetry-exporter-otlp-proto-http", extra="otel")
        _log.warning("OTEL_* asks for traces, but the extra 'otel' is not installed: none are sent")
        return None
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "crossfeed")})
    provider = TracerProvider(resource=resource)
    sender: SpanExporter
    if exporter == "console":
        sender = ConsoleSpanExporter()
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        sender = OTLPSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(sender))
    return Tracing(provider)
