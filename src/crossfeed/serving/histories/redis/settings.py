"""The meaning of a Redis server's settings for histories, and advice for its errors."""

from __future__ import annotations

from collections.abc import Mapping

from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    OutOfMemoryError,
    ReadOnlyError,
    TimeoutError,
)

from crossfeed.serving.histories.history import DURABLE, Durability

__all__ = ["durability_of", "hint_for"]

_UNREACHABLE = "is the server running, and can it be reached from here?"
_HINTS: Mapping[type[Exception], str] = {
    AuthenticationError: "put user and password into the URL: redis://USER:PASSWORD@HOST:PORT/0",
    ConnectionError: _UNREACHABLE,
    TimeoutError: _UNREACHABLE,
    OutOfMemoryError: "give the server more memory (maxmemory); what was acknowledged is kept",
    ReadOnlyError: "name the primary server: this one is a replica and takes no events",
    ValueError: "does another program write to keys that begin with crossfeed:? give it a database",
}
_OTHER = "the server's log tells more; what was acknowledged before is kept"


def durability_of(settings: Mapping[str | None, str | None]) -> Durability:
    """Return what a server's settings promise of the events that it acknowledged."""
    sync, policy = settings.get("appendfsync"), settings.get("maxmemory-policy") or ""
    if settings.get("appendonly") != "yes":
        lost = "a crash loses the events since the last snapshot (appendonly is not yes)"
    elif sync != "always":
        lost = f"a crash can lose the events of the last seconds (appendfsync {sync}, not always)"
    elif policy.startswith("allkeys") and settings.get("maxmemory") != "0":
        lost = f"where memory is full, histories are dropped (maxmemory-policy {policy})"
    else:
        return DURABLE
    return Durability(False, lost)


def hint_for(error: Exception) -> str:
    """Return what to do about an error of the server or of the way to it."""
    hints = (hint for kind, hint in _HINTS.items() if isinstance(error, kind))
    return next(hints, _OTHER)
