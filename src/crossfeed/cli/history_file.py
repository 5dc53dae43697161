"""A history in a file: a JSON array of events, as in the HTTP service."""

from __future__ import annotations

import sys
from pathlib import Path

from crossfeed.errors import RequestError

__all__ = ["read_history"]

_ALLOWED = 'a JSON array such as [{"item_id": "a1", "domain": "books", "timestamp": 1700000000}]'


def read_history(path: Path) -> list[dict[str, object]]:
    """Read a history from a file, or from stdin if the path is `-`.

    Raises:
        RequestError: it cannot be read or is not a history; naming every problem.
    """
    from pydantic import TypeAdapter, ValidationError

    from crossfeed.serving.http.schemas import PastEvent

    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text("utf-8-sig")
        events = TypeAdapter(list[PastEvent]).validate_json(text)
    except (OSError, UnicodeDecodeError) as error:
        raise _invalid(path, str(error)) from None
    except ValidationError as error:
        problems = [_problem(detail["loc"], detail["msg"]) for detail in error.errors()]
        raise _invalid(path, "\n  ".join(problems)) from None
    return [event.model_dump() for event in events]


def _problem(place: tuple[int | str, ...], message: str) -> str:
    where = ".".join(str(part) for part in place)
    return f"{where}: {message}" if where else message


def _invalid(path: Path, problem: str) -> RequestError:
    return RequestError(
        f"'{path}' is not a history: {problem}",
        field="history",
        value=str(path),
        allowed=_ALLOWED,
        hint=f"it must be {_ALLOWED}",
    )
