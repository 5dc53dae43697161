"""Who may ask for what: API keys with scopes and an end."""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from crossfeed.errors import ConfigError
from crossfeed.serving.http.guards.access import is_loopback

__all__ = [
    "ALL_RIGHTS",
    "KEYS_VARIABLE",
    "ApiKey",
    "RequireKey",
    "Right",
    "find_key",
    "keys_from_environment",
    "require_keys_beyond",
]

KEYS_VARIABLE = "CROSSFEED_API_KEYS"
_LEAST_KEY_LENGTH = 16


class Right(StrEnum):
    """The rights of a key; none includes another."""

    READ = "read"
    """Ask for recommendations, facts and metrics."""
    HISTORIES = "histories"
    """Read what a user did."""
    WRITE = "write"
    """Store events."""
    ADMIN = "admin"
    """Erase users and put another model into service."""


ALL_RIGHTS = frozenset(Right)


@dataclass(frozen=True)
class ApiKey:
    """A key that requests may bring."""

    secret: str = field(repr=False)
    rights: Set[Right] = ALL_RIGHTS
    expires: float | None = None
    """Seconds since 1970; None is never."""


def keys_from_environment() -> tuple[ApiKey, ...]:
    """Return the API keys of the environment variable CROSSFEED_API_KEYS, split at commas.

    Each is a secret, then what narrows it: `SECRET;scopes=read+write;expires=2027-01-31`. Without
    scopes it may do everything, without an end it stays.

    Raises:
        ConfigError: it is set and holds no key, or one that cannot work; no message shows one.
    """
    given = os.environ.get(KEYS_VARIABLE, "")
    keys = tuple(_parse(entry.strip()) for entry in given.split(",") if entry.strip())
    if given and not keys:
        raise _invalid(f"{KEYS_VARIABLE} is set, but holds no key")
    return keys


def require_keys_beyond(host: str, keys: Sequence[ApiKey]) -> None:
    """Refuse to listen beyond this machine without a key.

    Raises:
        ConfigError: `host` is no loopback address and there is no key.
    """
    if not keys and not is_loopback(host):
        raise ConfigError(
            f"host '{host}' can be reached from other machines, and no API key is set",
            hint=f"set {KEYS_VARIABLE}=KEY[,KEY...], or keep --host 127.0.0.1",
        )


def find_key(headers: Headers, keys: Sequence[ApiKey]) -> ApiKey | None:
    """Return the key that a request's headers bring: X-API-Key or a bearer token."""
    given = headers.get("x-api-key", "")
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if not given and scheme.lower() == "bearer":
        given = token.strip()
    # Each key is compared, in constant time, so that time tells nothing about any of them.
    matches = [hmac.compare_digest(given.encode(), key.secret.encode()) for key in keys]
    return keys[matches.index(True)] if any(matches) else None


class RequireKey:
    """Refuses a request whose key does not allow it, before anything of it is read.

    The key is put into the request's state, for what comes after.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Sequence[ApiKey],
        open_paths: Set[str],
        right_for: Callable[[str, str], Right],
        no_key: Response,
        expired: Response,
        no_right: Mapping[Right, Response],
    ) -> None:
        """Guard an application.

        Args:
            app: what is guarded.
            keys: a request must bring one of them.
            open_paths: what needs no key.
            right_for: tells which right a method and a path need.
            no_key: the answer to a request without a known key.
            expired: the answer to a request with a key past its end.
            no_right: the answers to a request whose key lacks a right.
        """
        self.app, self.keys, self.open_paths, self.right_for = app, keys, open_paths, right_for
        self.no_key, self.expired, self.no_right = no_key, expired, no_right

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what a key allows, and what asks for an open path."""
        if scope["type"] == "lifespan" or scope["path"] in self.open_paths:
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        await (refusal or self.app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        key = find_key(Headers(scope=scope), self.keys)
        if key is None:
            return self.no_key
        if key.expires is not None and time.time() >= key.expires:
            return self.expired
        right = self.right_for(scope.get("method", "GET"), scope["path"])
        if right not in key.rights:
            return self.no_right[right]
        scope.setdefault("state", {})["key"] = key
        return None


def _parse(entry: str) -> ApiKey:
    secret, *options = (part.strip() for part in entry.split(";"))
    if len(secret) < _LEAST_KEY_LENGTH:
        raise _invalid(f"a key in {KEYS_VARIABLE} is shorter than {_LEAST_KEY_LENGTH} characters")
    if not secret.isascii() or not secret.isprintable() or " " in secret:
        raise _invalid(f"a key in {KEYS_VARIABLE} holds a space or a character beyond ASCII")
    given = {name: value for name, _, value in (option.partition("=") for option in options)}
    # What came is shown nowhere: with a separator mistyped it may be the next key.
    if given.keys() - {"scopes", "expires"}:
        raise _invalid(f"a key in {KEYS_VARIABLE} has an option that is not scopes or expires")
    return ApiKey(
        secret,
        rights=_rights(given["scopes"]) if "scopes" in given else ALL_RIGHTS,
        expires=_moment(given["expires"]) if "expires" in given else None,
    )


def _rights(text: str) -> frozenset[Right]:
    names = text.split("+")
    if not ALL_RIGHTS.issuperset(names):
        allowed = ", ".join(Right)
        raise _invalid(f"a key in {KEYS_VARIABLE} has a scope that is none of: {allowed}")
    return frozenset(Right(name) for name in names)


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _invalid(
            f"a key in {KEYS_VARIABLE} has an end that is not an ISO 8601 time"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _invalid(problem: str) -> ConfigError:
    return ConfigError(
        problem,
        hint="make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'; "
        "narrow it: KEY;scopes=read+write;expires=2027-01-31",
    )
