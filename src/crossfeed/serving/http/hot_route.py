"""The routes that are asked most: in FastAPI's document, and answered without its machinery.

What FastAPI does around a handler costs more than reading, checking and writing JSON together;
pydantic does those from and to bytes. Everything else is as on the other routes: the same models,
the same problems, the same handlers of errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from crossfeed.serving.http.schemas import Answer, Problem, refuse_too_many_errors

__all__ = ["HotRoute", "json_body", "query"]

Handler = Callable[..., Awaitable[bytes]]
Read = Callable[[Scope, Receive], Awaitable[Mapping[str, object]]]
"""Reads a handler's arguments out of a request."""

_LARGE_BYTES = 65_536
"""Bodies beyond are checked in a thread: the largest would keep the event loop for long."""


class HotRoute(APIRoute):
    """A route whose handler returns the bytes of an `Answer`."""

    def __init__(self, method: str, path: str, handler: Handler, *, read: Read) -> None:
        """Make the route.

        Args:
            method: the HTTP method.
            path: the path, with its parameters.
            handler: its signature is what the OpenAPI document shows.
            read: what makes the handler's arguments; it raises RequestValidationError.
        """
        super().__init__(
            path,
            handler,
            methods=[method],
            response_model=Answer,
            responses={422: {"model": Problem}, 503: {"model": Problem}},
        )
        self._handler, self._read = handler, read
        self.app = self._answer  # in the place of FastAPI's own

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        content = await self._handler(**await self._read(scope, receive))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


def json_body(name: str, model: type[BaseModel]) -> Read:
    """Return what reads a model out of a body of JSON, as the argument `name`."""

    async def read(scope: Scope, receive: Receive) -> Mapping[str, object]:
        content = await _body(receive)
        try:
            if not _is_json(scope):
                return {name: model.model_validate(content or None)}
            if len(content) > _LARGE_BYTES:
                return {name: await asyncio.to_thread(model.model_validate_json, content)}
            return {name: model.model_validate_json(content)}
        except ValidationError as error:
            raise _invalid(error, "body") from None

    return read


def query(name: str, model: type[BaseModel]) -> Read:
    """Return what reads a model out of the query, beside the parameters of the path."""

    async def read(scope: Scope, receive: Receive) -> Mapping[str, object]:
        given = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        try:
            return {**scope["path_params"], name: model.model_validate(given)}
        except ValidationError as error:
            raise _invalid(error, "query") from None

    return read


async def _body(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _is_json(scope: Scope) -> bool:
    """Return whether a body says that it is JSON: a form of another site's page cannot."""
    for header, value in scope["headers"]:
        if header == b"content-type":
            kind = value.partition(b";")[0].strip().lower()
            return bool(
                kind == b"application/json"
                or (kind.startswith(b"application/") and kind.endswith(b"+json"))
            )
    return False


def _invalid(error: ValidationError, place: str) -> RequestValidationError:
    refuse_too_many_errors(error)
    details: Sequence[Any] = error.errors(include_url=False)  # Any: pydantic's own dictionaries
    return RequestValidationError([{**one, "loc": (place, *one["loc"])} for one in details])
