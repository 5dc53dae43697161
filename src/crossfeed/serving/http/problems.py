"""Errors as a client sees them: problem+json (RFC 9457), without a word of the inside."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from crossfeed.errors import RequestError
from crossfeed.serving.http.schemas import Problem

__all__ = ["http_problem", "problem", "request_problem", "validation_problem"]

_LONGEST_TEXT = 2000
_LONGEST_VALUE = 200
_MOST_SENTENCES = 10
_INT64 = range(-(2**63), 2**63)


def problem(
    status: int,
    title: str,
    detail: str,
    *,
    field: str | None = None,
    value: object = None,
    allowed: str | None = None,
) -> Response:
    """Return a problem as an answer; what came from the client is cut to a length one can read."""
    told = Problem(
        title=title,
        status=status,
        detail=_clean(detail)[:_LONGEST_TEXT],
        field=None if field is None else _clean(field)[:_LONGEST_VALUE],
        value=_shown(value),
        allowed=allowed,
    )
    return JSONResponse(
        told.model_dump(exclude_none=True), status, media_type="application/problem+json"
    )


def request_problem(error: RequestError) -> Response:
    """Return what the recommender found wrong with a request."""
    return problem(
        422,
        "The request is not valid",
        error.message,
        field=error.field,
        value=error.value,
        allowed=error.allowed,
    )


def validation_problem(error: RequestValidationError) -> Response:
    """Return all that is wrong with the form of a request, the first of it field by field."""
    details: Sequence[Any] = error.errors()[:_MOST_SENTENCES]  # Any: pydantic's own dictionaries
    names = [_name(detail["loc"][1:]) for detail in details]
    allowed = [_allowed(detail) for detail in details]
    sentences = [f"{name}: {what}" for name, what in zip(names, allowed, strict=True)]
    return problem(
        422,
        "The request is not valid",
        "; ".join(sentences),
        field=names[0],
        value=None if details[0]["type"] == "missing" else details[0].get("input"),
        allowed=allowed[0],
    )


def http_problem(error: HTTPException) -> Response:
    """Return what routing or a handler found: no such path, no such method, no readable body."""
    detail = str(error.detail)
    if detail == HTTPStatus(error.status_code).phrase:  # it comes from the router
        detail = {
            404: "there is no such path; /docs shows all paths",
            405: f"this path takes {', '.join((error.headers or {}).values())}",
        }.get(error.status_code, detail)
    answer = problem(error.status_code, "The request cannot be answered", detail)
    answer.headers.update(error.headers or {})
    return answer


def _name(parts: Sequence[str | int]) -> str:
    """Return where something is in a body, as in `events[3].user_id`."""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return name.lstrip(".") or "body"


def _allowed(detail: Any) -> str:  # Any: pydantic's own dictionary of one error
    """Return our sentence for one error of pydantic."""
    context = detail.get("ctx", {})
    if detail["type"] == "value_error":
        return str(context["error"])
    sentence = _SENTENCES.get(detail["type"])
    return sentence.format_map(context) if sentence else str(detail["msg"])


_SENTENCES = {
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "extra_forbidden": "no field of this name is known here; is it misspelt?",
    "greater_than_equal": "must be at least {ge}",
    "int_parsing": "must be an integer",
    "int_type": "must be an integer",
    "json_invalid": "must be JSON: {error}",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "missing": "is required",
    "model_attributes_type": "must be an object",
    "model_type": "must be an object",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} character",
    "string_type": "must be text",
    "string_unicode": "must be text in UTF-8",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entry",
}
"""By pydantic's type of error. Words in braces come from the error."""


def _shown(value: object) -> str | int | None:
    """Return a value as it came if it is short and plain; NaN and the like are no JSON."""
    if value is None or (isinstance(value, int) and value in _INT64):
        return value
    if isinstance(value, bytes):  # a body that is no JSON
        value = value.decode("utf-8", "backslashreplace")
    return _clean(value if isinstance(value, str) else repr(value))[:_LONGEST_VALUE]


def _clean(text: str) -> str:
    """Return a text that UTF-8 can hold: JSON can write half a character."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
