"""The service describes itself: its OpenAPI document, and a page of it that needs no other site."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from crossfeed import __version__
from crossfeed.serving.http.schemas import Problem

__all__ = ["DescribedApi", "description_routes"]

_SCHEMES = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "Bearer": {"type": "http", "scheme": "bearer"},
}

_TAGS = [
    {"name": "recommendations", "description": "What a user is likely to want next."},
    {"name": "users", "description": "What users did: store, read and erase it."},
    {"name": "items", "description": "Which items may be recommended."},
    {"name": "model", "description": "The model in service."},
    {"name": "operations", "description": "Health and metrics."},
]

_POLICY = "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; " + (
    "style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

_NO_TELEMETRY: dict[str, Any] = (  # Any: settings of FastAPI
    {"telemetry": {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}}
    if "telemetry" in inspect.signature(FastAPI.__init__).parameters
    else {}
)
"""FastAPI's own spans would hold paths, and paths hold users' ids."""

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class DescribedApi(FastAPI):
    """FastAPI with the keys in its document and without pages that load scripts from elsewhere."""

    def __init__(self, *, lifespan: Lifespan) -> None:
        """Make an application without routes.

        Args:
            lifespan: what happens before the first and after the last request.
        """
        super().__init__(
            title="crossfeed",
            version=__version__,
            summary="Recommendations for many domains that share users.",
            description="A service with keys asks for one in each request: `X-API-Key: KEY` or "
            "`Authorization: Bearer KEY`.",
            openapi_tags=_TAGS,
            lifespan=lifespan,
            redirect_slashes=False,  # a redirect would name the scheme behind a proxy, not before
            docs_url=None,
            redoc_url=None,
            **_NO_TELEMETRY,
        )

    def openapi(self) -> dict[str, Any]:  # Any: JSON
        """Return the OpenAPI document."""
        document = super().openapi()
        parts = document.setdefault("components", {})
        parts["securitySchemes"] = _SCHEMES
        parts.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
        return document


def description_routes() -> list[Route]:
    """Return the pages for people."""
    page = (files("crossfeed.serving.http") / "docs.html").read_text("utf-8")

    async def docs(request: Request) -> Response:
        return HTMLResponse(page, headers={"content-security-policy": _POLICY})

    async def home(request: Request) -> Response:
        return RedirectResponse(f"{request.scope.get('root_path', '')}/docs")

    return [
        Route("/docs", docs, include_in_schema=False),
        Route("/", home, include_in_schema=False),
    ]
