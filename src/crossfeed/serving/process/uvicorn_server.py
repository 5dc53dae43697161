"""One uvicorn server: our limits to requests, and a word when it begins and when it stops."""

from __future__ import annotations

import math
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from crossfeed.serving.http.guards.limits import Limits
from crossfeed.serving.http.protocol import LimitedProtocol

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["ServiceServer", "make_config", "stop_seconds"]


class ServiceServer(uvicorn.Server):
    """Tells when it begins to answer, and the service when it is about to stop."""

    def __init__(
        self, make_app: Callable[[], FastAPI], limits: Limits, *, ready: Callable[[], None]
    ) -> None:
        """Make ready.

        Args:
            make_app: makes the application in `run`, so that a signal meanwhile ends the process.
            limits: tell how long a request may take to come, and work that has begun.
            ready: is called when it begins to answer.
        """

        class Protocol(LimitedProtocol):
            timeout_seconds = limits.timeout_seconds

        self._app: FastAPI | None = None
        self._make_app, self._ready = make_app, ready
        config = make_config(self._application, limits)
        config.http = Protocol
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop: at once before the first answer, else after what is begun."""
        if not self.started:
            sys.exit(128 + sig)
        assert self._app is not None
        self._app.state.service.stopping = True
        super().handle_exit(sig, frame)

    def _application(self) -> FastAPI:
        self._app = self._make_app()
        return self._app


def make_config(
    app: Callable[[], FastAPI] | str, limits: Limits, *, workers: int = 1
) -> uvicorn.Config:
    """Return uvicorn's settings.

    Args:
        app: makes the application.
        limits: what one process takes on.
        workers: how many processes there are.
    """
    return uvicorn.Config(
        app,
        factory=True,
        log_config=None,  # `log_requests` did it
        access_log=False,
        proxy_headers=False,  # nothing here asks where a request came from
        timeout_graceful_shutdown=stop_seconds(limits),
        workers=workers,
    )


def stop_seconds(limits: Limits) -> int:
    """Return how long work that has begun may take: a body, then its answer."""
    return math.ceil(2 * limits.timeout_seconds)
