"""Who may ask, and how much: API keys and the size of a body."""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Sequence, Set

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crossfeed.errors import ConfigError

__all__ = [
    "KEYS_VARIABLE",
    "BodyLimit",
    "RequireKey",
    "has_key",
    "keys_from_environment",
    "require_keys_beyond",
]

KEYS_VARIABLE = "CROSSFEED_API_KEYS"
_LEAST_KEY_LENGTH = 16


def keys_from_environment() -> tuple[str, ...]:
    """Return the API keys of the environment variable CROSSFEED_API_KEYS, split at commas.

    Raises:
        ConfigError: it is set and holds no key, or one that is too short or that no header can
            carry; the message does not show it.
    """
    given = os.environ.get(KEYS_VARIABLE, "")
    keys = tuple(key.strip() for key in given.split(",") if key.strip())
    problem = None
    if given and not keys:
        problem = f"{KEYS_VARIABLE} is set, but holds no key"
    elif any(len(key) < _LEAST_KEY_LENGTH for key in keys):
        problem = f"a key in {KEYS_VARIABLE} is shorter than {_LEAST_KEY_LENGTH} characters"
    elif any(not key.isascii() or not key.isprintable() or " " in key for key in keys):
        problem = f"a key in {KEYS_VARIABLE} holds a space or a character beyond ASCII"
    if problem:
        raise ConfigError(
            problem,
            hint="make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
    return keys


def require_keys_beyond(host: str, keys: Sequence[str]) -> None:
    """Refuse to listen beyond this machine without a key.

    Raises:
        ConfigError: `host` is no loopback address and there is no key.
    """
    if not keys and not _is_loopback(host):
        raise ConfigError(
            f"host '{host}' can be reached from other machines, and no API key is set",
            hint=f"set {KEYS_VARIABLE}=KEY[,KEY...], or keep --host 127.0.0.1",
        )


def has_key(headers: Headers, keys: Sequence[str]) -> bool:
    """Return whether a request's headers bring one of the keys: X-API-Key or a bearer token."""
    given = headers.get("x-api-key", "")
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if not given and scheme.lower() == "bearer":
        given = token.strip()
    # Each key is compared, in constant time, so that time tells nothing about any of them.
    matches = [hmac.compare_digest(given.encode(), key.encode()) for key in keys]
    return any(matches)


class RequireKey:
    """Answers `refusal` to a request without a key, before anything of it is read."""

    def __init__(
        self, app: ASGIApp, *, keys: Sequence[str], open_paths: Set[str], refusal: Response
    ) -> None:
        self.app, self.keys, self.open_paths, self.refusal = app, keys, open_paths, refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what brings a key, and what asks for an open path."""
        guarded = scope["type"] == "http" and scope["path"] not in self.open_paths
        if guarded and not has_key(Headers(scope=scope), self.keys):
            await self.refusal(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class BodyLimit:
    """Answers 413 to a body of more bytes than allowed, before anything reads it."""

    def __init__(self, app: ASGIApp, *, most_bytes: int, refusal: Response) -> None:
        self.app, self.most_bytes, self.refusal = app, most_bytes, refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body as far as allowed, then let the application have it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        messages: list[Message] = []
        size, more = 0, True
        while more:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            more = message["type"] == "http.request" and message.get("more_body", False)
            if size > self.most_bytes:
                await self.refusal(scope, receive, send)
                return
        waiting = iter(messages)

        async def replay() -> Message:
            return next(waiting, None) or await receive()

        await self.app(scope, replay, send)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
