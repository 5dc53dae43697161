"""The checks that every request passes on its way to the routes, and their refusals."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from crossfeed.errors import RequestError
from crossfeed.serving.http.guards.access import (
    Access,
    BelowRootPath,
    RequireOwnHost,
    RequireSameOrigin,
)
from crossfeed.serving.http.guards.admission import Admission, BodyLimit, RateLimit
from crossfeed.serving.http.guards.limits import Limits
from crossfeed.serving.http.guards.security import ApiKey, RequireKey, Right
from crossfeed.serving.http.problems import (
    http_problem,
    problem,
    request_problem,
    validation_problem,
)
from crossfeed.serving.operations.monitoring import Monitoring, RequestLog
from crossfeed.serving.operations.tracing import TraceRequests, Tracing

__all__ = ["OPEN_PATHS", "add_guards", "add_problem_handlers", "right_for"]

OPEN_PATHS = frozenset({"/health/live", "/health/ready"})
"""Paths that never need a key and are answered under any load."""

_DESCRIPTION_PATHS = frozenset({"/", "/docs", "/openapi.json"})
"""Paths that describe the service: the same for everybody, so they need no key either."""


def add_guards(
    app: FastAPI,
    *,
    monitoring: Monitoring,
    keys: Sequence[ApiKey],
    limits: Limits,
    access: Access,
    tracing: Tracing | None = None,
) -> None:
    """Put around the routes what every request passes; the last one added is the outermost.

    Args:
        app: the application.
        monitoring: counts and logs each request.
        keys: the API keys; without any, everybody may ask.
        limits: what the process takes on.
        access: where requests may come from.
        tracing: records each request.
    """
    full = _again(503, "The service is busy", "too many concurrent requests", 1)
    app.add_middleware(
        Admission,
        limits=limits,
        open_paths=OPEN_PATHS | {"/metrics"},
        full=full,
        late=_again(503, "The answer took too long", "the request may have been carried out", 1),
    )
    app.add_middleware(
        BodyLimit,
        limits=limits,
        too_large=problem(
            413, "The body is too large", f"at most {limits.body_bytes} bytes are read"
        ),
        too_slow=problem(
            408, "The body came too slowly", f"at most {limits.timeout_seconds:g} s are waited"
        ),
        full=full,
    )
    if limits.requests_per_second is not None:
        app.add_middleware(
            RateLimit,
            per_second=limits.requests_per_second,
            open_paths=OPEN_PATHS | {"/metrics"},
            refusal=_too_often,
        )
    if keys:
        app.add_middleware(
            RequireKey,
            keys=keys,
            open_paths=OPEN_PATHS | _DESCRIPTION_PATHS,
            right_for=right_for,
            no_key=_unauthorized("No valid key", "send a key as X-API-Key or as a bearer token"),
            expired=_unauthorized("The key has expired", "ask for another one"),
            no_right={
                right: problem(403, "The key may not do this", f"it needs the scope {right}")
                for right in Right
            },
        )
    else:  # a page of another site would need a key, and has none
        app.add_middleware(
            RequireSameOrigin,
            origins=access.origins,
            refusal=problem(
                403,
                "Another site's page may not do this",
                "the header Origin names another site; --allow-origin lets it ask",
            ),
        )
    if access.hosts:
        app.add_middleware(
            RequireOwnHost,
            hosts=access.hosts,
            open_paths=OPEN_PATHS,
            refusal=problem(
                421, "Not a name of this service", "the header Host is none of --allow-host"
            ),
        )
    if access.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=access.origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["authorization", "content-type", "x-api-key"],
            expose_headers=["retry-after", "x-request-id"],
        )
    failure = problem(500, "Something went wrong", "the service's log tells more")
    app.add_middleware(RequestLog, monitoring=monitoring, failure=failure, routes=app.router.routes)
    if tracing is not None:
        app.add_middleware(TraceRequests, tracing=tracing)
    if access.root_path:
        app.add_middleware(BelowRootPath, root_path=access.root_path)


def add_problem_handlers(app: FastAPI) -> None:
    """Have what is wrong with a request told as a problem."""
    app.add_exception_handler(RequestError, _request_problem)
    app.add_exception_handler(RequestValidationError, _validation_problem)
    app.add_exception_handler(HTTPException, _http_problem)


def right_for(method: str, path: str) -> Right:
    """Return the right that a request needs; what is not known to only read needs more."""
    if path.startswith("/v1/users/") and path.rstrip("/").endswith("/history"):
        return Right.HISTORIES if method in ("GET", "HEAD") else Right.ADMIN
    if method in ("GET", "HEAD", "OPTIONS") or (method, path) == ("POST", "/v1/recommend"):
        return Right.READ
    return Right.WRITE if (method, path) == ("POST", "/v1/events") else Right.ADMIN


def _again(status: int, title: str, detail: str, seconds: int) -> Response:
    answer = problem(status, title, detail)
    answer.headers["retry-after"] = str(seconds)
    return answer


def _too_often(wait_seconds: int) -> Response:
    return _again(429, "Too many requests", "the key's share is used up", wait_seconds)


def _unauthorized(title: str, detail: str) -> Response:
    answer = problem(401, title, detail)
    answer.headers["www-authenticate"] = "Bearer"
    return answer


def _request_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return request_problem(error)


def _validation_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return validation_problem(error)


def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return http_problem(error)
