"""From a bundle's folder to a listening service."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import math
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from crossfeed.bundle import Bundle
from crossfeed.errors import ConfigError, MissingExtraError
from crossfeed.serving.limits import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["serve"]

_DEFAULTS = Limits()


def serve(
    bundle: Path | str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    history_store: str | None = None,
    limits: Limits = _DEFAULTS,
    fallbacks: Path | str | None = None,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve a bundle over HTTP until the process is told to stop.

    Args:
        bundle: the bundle's folder; it is only read.
        host: the address to listen on; beyond loopback an API key must be set in the environment
            variable CROSSFEED_API_KEYS.
        port: the port to listen on.
        history_store: URL of the store of what users do; by default a file beside the bundle.
        limits: what the process takes on; see `Limits`.
        fallbacks: a TOML file of what domains fall back on where nothing is known of a user.
        announce: is told the service's URL when everything is in order and it begins to answer.

    Raises:
        MissingExtraError: the extra `serve` is not installed.
        ConfigError: the host needs a key, the port cannot be listened on, or the fallbacks are
            not valid.
        BundleError: the bundle is missing or damaged, or fails its check.
        HistoryStoreError: the store cannot be opened.
    """
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package=package, extra="serve")
    from crossfeed.serving.app import create_app
    from crossfeed.serving.fallback import read_fallbacks
    from crossfeed.serving.reload import check_answers
    from crossfeed.serving.security import keys_from_environment, require_keys_beyond
    from crossfeed.serving.store_url import default_store_url, open_store

    keys = keys_from_environment()
    require_keys_beyond(host, keys)
    loaded = Bundle.load(bundle)
    chains = None if fallbacks is None else read_fallbacks(fallbacks, loaded)
    _log_requests()
    url = history_store or default_store_url(Path(bundle))
    with _bind(host, port) as listening, contextlib.closing(open_store(url)) as store:
        # Both here, because an error in the application's own start would not reach the caller.
        store.fill(loaded.histories(), origin=loaded.version)
        check_answers(loaded)
        app = create_app(loaded, store=store, keys=keys, limits=limits, fallbacks=chains)
        _run(app, listening, announce, most_seconds=limits.timeout_seconds)


def _run(
    app: FastAPI,
    listening: socket.socket,
    announce: Callable[[str], None] | None,
    *,
    most_seconds: float,
) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        """Tells when it begins to answer, reloads on SIGHUP, and says when it is about to stop."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if not self.started:
                return
            if threading.current_thread() is threading.main_thread():  # the only one with signals
                loop, reload = asyncio.get_running_loop(), app.state.service.reload_model
                loop.add_signal_handler(signal.SIGHUP, loop.run_in_executor, None, reload)
            if announce:
                announce(_url(listening))

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            app.state.service.stopping = True
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=math.ceil(2 * most_seconds),  # a body, then its answer
    )
    Server(config).run(sockets=[listening])


def _log_requests() -> None:
    """Send the request log to stderr as it is, one line of JSON each."""
    from crossfeed.serving.monitoring import REQUEST_LOG

    log = logging.getLogger(REQUEST_LOG)
    log.propagate = False
    log.setLevel(logging.INFO)
    log.handlers = [logging.StreamHandler()]


def _url(listening: socket.socket) -> str:
    host, port, *_ = listening.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bind(host: str, port: int) -> socket.socket:
    listening = None
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except (OSError, OverflowError) as error:
        if listening is not None:
            listening.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error}", hint="choose another --port or --host"
        ) from None
    return listening
