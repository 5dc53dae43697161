"""The one class of route: in FastAPI's document, and answered without its machinery.

FastAPI's work around a handler costs more than reading, checking and writing JSON together;
pydantic does those from and to bytes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from crossfeed.serving.http.schemas import refuse_too_many_errors

__all__ = ["Route", "read_body", "read_parameters"]

Model = TypeVar("Model", bound=BaseModel)

_LARGE_BYTES = 65_536
"""Larger bodies are checked in a thread: the largest would keep the event loop busy for long."""

_PROBLEMS = {422: "The request is not valid.", 503: "Busy, or the history store does not answer."}

_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}

_SECURITY: list[dict[str, list[str]]] = [{"ApiKey": []}, {"Bearer": []}]


class _Segment(StringConvertor):
    """One segment of a path, also an empty one: its handler says what is wrong with it."""

    regex = "[^/]*"


register_url_convertor("segment", _Segment())


class Route(APIRoute):
    """A route with the same reading, checking and errors as all others.

    The handler's arguments are the parameters of the path, `parameters` (the query) and `body`. It
    returns its answer, the JSON of it as bytes, or a Response. Plain functions run in threads.
    """

    def __init__(
        self,
        method: str,
        path: str,
        handler: Callable[..., Any],  # Any: each route has its own arguments and answer
        *,
        answer: Any,  # Any: a type
        tag: str,
        body: type[BaseModel] | None = None,
        parameters: type[BaseModel] | None = None,
        problems: Mapping[int, str] | None = None,
        open_to_all: bool = False,
        **response: Any,  # Any: FastAPI's own description of an answer that is no JSON
    ) -> None:
        """Make the route.

        Args:
            method: the HTTP method.
            path: the path, with its parameters.
            handler: its signature and docstring are in the OpenAPI document.
            answer: the type of its answer.
            tag: the part of the document it belongs to.
            body: the model of the body.
            parameters: the model of the query.
            problems: more statuses of errors, and when they come.
            open_to_all: whether it needs no key.
            response: more for the document.
        """
        told = {**_PROBLEMS, **({} if open_to_all else _ACCESS), **(problems or {})}
        super().__init__(
            path,
            handler,
            methods=[method],
            response_model=answer,
            tags=[tag],
            responses={
                status: {"description": why, "content": _PROBLEM} for status, why in told.items()
            },
            openapi_extra={"security": [] if open_to_all else _SECURITY},
            **response,
        )
        self._handler, self._body, self._parameters = handler, body, parameters
        self._to_json = TypeAdapter[Any](answer).dump_json  # Any: of whatever type it is
        self._waits = inspect.iscoroutinefunction(handler)
        self.app = self._answer  # in the place of FastAPI's own

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match the path as it was sent: a slash inside an id is encoded and divides nothing."""
        if scope["type"] != "http":
            return Match.NONE, {}
        found = self.path_regex.match(_encoded_path(scope))
        if found is None:
            return Match.NONE, {}
        given = {name: unquote(value) for name, value in found.groupdict().items()}
        child = {"endpoint": self.endpoint, "path_params": given, "route": self}
        full = scope["method"] in (self.methods or ())
        return Match.FULL if full else Match.PARTIAL, child

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        arguments = dict(scope["path_params"])
        if self._parameters is not None:
            arguments["parameters"] = read_parameters(scope, self._parameters)
        if self._body is not None:
            arguments["body"] = await read_body(scope, receive, self._body)
        if self._waits:
            content = self._content(await self._handler(**arguments))
        else:
            content = await run_in_threadpool(lambda: self._content(self._handler(**arguments)))
        if isinstance(content, Response):
            await content(scope, receive, send)
            return
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _content(self, answer: object) -> bytes | Response:
        return answer if isinstance(answer, bytes | Response) else self._to_json(answer)


_ACCESS = {
    401: "No key, or one that is not valid.",
    403: "The key lacks the scope.",
    429: "The key's share of requests is used up.",
}


async def read_body(scope: Scope, receive: Receive, model: type[Model]) -> Model:
    """Read a model out of a body of JSON; a large body is checked beside the event loop.

    Raises:
        HTTPException: the body is no JSON, or compressed.
        RequestValidationError: it does not fit the model.
        RequestError: it has too many errors to name them.
    """
    _require_json(scope)
    content = await _content(receive)
    try:
        if len(content) > _LARGE_BYTES:
            return await run_in_threadpool(model.model_validate_json, content)
        return model.model_validate_json(content)
    except ValidationError as error:
        raise _invalid(error, "body") from None


def read_parameters(scope: Scope, model: type[Model]) -> Model:
    """Read a model out of the query of a URL.

    Raises:
        RequestValidationError: it does not fit the model.
    """
    given = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _invalid(error, "query") from None


def _encoded_path(scope: Scope) -> str:
    """Return the path with each of its segments percent-encoded in one way."""
    known = scope.get("crossfeed.path")
    if known is None:
        raw = scope.get("raw_path")
        given = quote(scope["path"]) if raw is None else raw.partition(b"?")[0].decode("latin-1")
        known = "/".join(map(_canonical, given.split("/"))) if "%" in given else given
        scope["crossfeed.path"] = known
    return str(known)


def _canonical(segment: str) -> str:
    return quote(unquote(segment), safe="")


async def _content(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _require_json(scope: Scope) -> None:
    """Refuse a body that does not say that it is JSON: a form of another site's page cannot."""
    headers = dict(scope["headers"])
    encoding = headers.get(b"content-encoding", b"identity").strip().lower().decode("latin-1")
    if encoding != "identity":
        raise HTTPException(415, f"the body is compressed ({encoding}); send it uncompressed")
    given = headers.get(b"content-type", b"").decode("latin-1")
    kind = given.partition(";")[0].strip().lower()
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return
    came = f"it says '{given}'" if given else "it has none"
    raise HTTPException(415, f"the body must have content-type: application/json; {came}")


def _invalid(error: ValidationError, place: str) -> RequestValidationError:
    refuse_too_many_errors(error)
    details: Any = error.errors(include_url=False)  # Any: pydantic's own dictionaries
    return RequestValidationError([{**one, "loc": (place, *one["loc"])} for one in details])
