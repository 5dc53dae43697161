"""Limits of a process: the size of bodies, requests at once and requests per key."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Set

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crossfeed.serving.http.guards.limits import Limits

__all__ = ["Admission", "BodyLimit", "RateLimit"]


class BodyLimit:
    """Refuses a body that is too large or comes too slowly, before anything reads it.

    Bodies that come in pieces are kept meanwhile: as many at once as requests may be in work.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        too_large: Response,
        too_slow: Response,
        full: Response,
    ) -> None:
        self.app, self.limits = app, limits
        self.too_large, self.too_slow, self.full = too_large, too_slow, full
        self._coming = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body as far as allowed, then let the application have it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.limits.timeout_seconds):
                messages = await self._read(scope, receive)
        except TimeoutError:
            messages = self.too_slow
        if isinstance(messages, Response):
            await messages(scope, receive, send)
            return
        waiting = iter(messages)

        async def replay() -> Message:
            return next(waiting, None) or await receive()

        await self.app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> list[Message] | Response:
        """Return all messages of a body, or why it is refused."""
        if _announced_bytes(scope) > self.limits.body_bytes:
            return self.too_large
        messages: list[Message] = []
        size, more, counted = 0, True, False
        try:
            while more:
                message = await receive()
                messages.append(message)
                size += len(message.get("body", b""))
                more = message["type"] == "http.request" and message.get("more_body", False)
                if size > self.limits.body_bytes:
                    return self.too_large
                if more and not counted:
                    if self._coming >= self.limits.requests_at_once:
                        return self.full
                    counted = True
                    self._coming += 1
        finally:
            self._coming -= counted
        return messages


class Admission:
    """Refuses what comes while enough requests are in work, and answers for those that hang.

    A request counts until its work is done, also when it was answered for: a thread cannot be
    stopped, and counting it keeps the others from piling up behind it.
    """

    def __init__(
        self, app: ASGIApp, *, limits: Limits, open_paths: Set[str], full: Response, late: Response
    ) -> None:
        self.app, self.limits, self.open_paths = app, limits, open_paths
        self.full, self.late = full, late
        self._working: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on if there is room for it; wait for its answer as long as allowed."""
        if scope["type"] != "http" or scope["path"] in self.open_paths:
            await self.app(scope, receive, send)
        elif len(self._working) >= self.limits.requests_at_once:
            await self.full(scope, receive, send)
        else:
            await self._work(scope, receive, send)

    async def _work(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = given_up = False

        async def send_in_time(message: Message) -> None:
            nonlocal begun
            begun = True
            if not given_up:
                await send(message)

        task = asyncio.ensure_future(self.app(scope, receive, send_in_time))
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        await asyncio.wait({task}, timeout=self.limits.timeout_seconds)
        if begun or task.done():
            await task
            return
        given_up = True
        task.add_done_callback(_note_error)  # nobody else waits for it any more
        await self.late(scope, receive, send)


class RateLimit:
    """Refuses a key that asks more often than allowed, with the time after which it may again."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        per_second: float,
        open_paths: Set[str],
        refusal: Callable[[int], Response],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app, self.open_paths, self.refusal, self.clock = app, open_paths, refusal, clock
        self.per_second, self.most = per_second, max(1.0, per_second)
        self._left: dict[object, tuple[float, float]] = {}  # by key: requests left, and when

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what its key may ask now."""
        if scope["type"] == "http" and scope["path"] not in self.open_paths:
            wait = self._wait_seconds(scope.get("state", {}).get("key"))
            if wait > 0:
                await self.refusal(math.ceil(wait))(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _wait_seconds(self, key: object) -> float:
        """Take one request from a key's share; return how long it must wait if there is none."""
        now = self.clock()
        left, since = self._left.get(key, (self.most, now))
        left = min(self.most, left + (now - since) * self.per_second)
        taken = left >= 1
        self._left[key] = (left - 1 if taken else left, now)
        return 0.0 if taken else (1 - left) / self.per_second


def _announced_bytes(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


def _note_error(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()
