"""Ids of users and items: strings or integers, and what the log had comes back unchanged."""

from __future__ import annotations

import reprlib
from typing import TypeGuard

import numpy as np
import pyarrow as pa

from crossfeed.errors import RequestError

__all__ = ["ANY_ID", "ANY_NAME", "LONGEST_ID", "Id", "is_id", "is_name", "restore_id"]

Id = str | int

LONGEST_ID = 1024
"""Characters in an id or a name."""
_INT64 = range(-(2**63), 2**63)

ANY_ID = f"a string of 1 to {LONGEST_ID} characters or an integer of 64 bits"
"""The ids that `is_id` allows, in words."""

ANY_NAME = f"a string of 1 to {LONGEST_ID} characters"
"""The names that `is_name` allows, in words."""


def is_id(value: object) -> TypeGuard[Id]:
    """Return whether a value can be an id, so that it can be stored and comes back unchanged."""
    return is_name(value) or (
        isinstance(value, int) and not isinstance(value, bool) and value in _INT64
    )


def is_name(value: object) -> TypeGuard[str]:
    """Return whether a value can be the name of a domain or of an event."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_ID and _is_unicode(value)


def restore_id(value: object, type_: pa.DataType, *, field: str) -> Id:
    """Return an id as the log has it; in URLs an id is text, and JSON knows both kinds.

    Args:
        value: a string or an integer.
        type_: the log's type of this id: string or int64.
        field: what a message calls it.

    Raises:
        RequestError: it is neither, or the log's ids are integers and it is none.
    """
    if isinstance(value, np.generic):  # a cell of a table
        value = value.item()
    if type_ == pa.int64():
        number = _integer(value) if is_id(value) else None
        if number is None:
            raise _not_an_id(value, field, "an integer of 64 bits, like the ids of the log")
        return number
    if not is_id(value):
        raise _not_an_id(value, field, ANY_ID)
    return str(value)


def _integer(value: Id) -> int | None:
    """Return the integer that an id is or is the plain text of, if any."""
    try:
        number = int(value)
    except ValueError:
        return None
    return number if str(number) == str(value) and number in _INT64 else None


def _is_unicode(text: str) -> bool:
    """Return whether a text has no lone surrogates, which JSON can write and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _not_an_id(value: object, field: str, allowed: str) -> RequestError:
    return RequestError(
        f"{field} must be {allowed}; it is {reprlib.repr(value)}",
        field=field,
        value=value,
        allowed=allowed,
    )
