"""Who may ask, and how much: API keys and the size of a body."""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crossfeed.errors import ConfigError

__all__ = ["KEYS_VARIABLE", "BodyLimit", "has_key", "keys_from_environment", "require_keys_beyond"]

KEYS_VARIABLE = "CROSSFEED_API_KEYS"
_LEAST_KEY_LENGTH = 16


def keys_from_environment() -> tuple[str, ...]:
    """Return the API keys of the environment variable CROSSFEED_API_KEYS, split at commas.

    Raises:
        ConfigError: a key is shorter than 16 characters; the message does not show it.
    """
    keys = tuple(key for key in os.environ.get(KEYS_VARIABLE, "").split(",") if key)
    if any(len(key) < _LEAST_KEY_LENGTH for key in keys):
        raise ConfigError(
            f"a key in {KEYS_VARIABLE} is shorter than {_LEAST_KEY_LENGTH} characters",
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


def has_key(request: Request, keys: Sequence[str]) -> bool:
    """Return whether a request brings one of the keys, as X-API-Key or as a bearer token."""
    given = request.headers.get("x-api-key", "")
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if not given and scheme.lower() == "bearer":
        given = token
    # Each key is compared, in constant time, so that time tells nothing about any of them.
    matches = [hmac.compare_digest(given.encode(), key.encode()) for key in keys]
    return any(matches)


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
