"""From a bundle's folder to a listening service."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import logging
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from crossfeed.bundle import Bundle
from crossfeed.errors import ConfigError, MissingExtraError
from crossfeed.serving.http.guards.limits import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["Serving", "log_requests", "make_app", "run_app", "serve"]

_DEFAULTS = Limits()
_BACKLOG = 2048


def serve(
    bundle: Path | str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    history_store: str | None = None,
    limits: Limits = _DEFAULTS,
    fallbacks: Path | str | None = None,
    workers: int = 1,
    otel: bool = False,
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
        workers: how many processes answer; they share the port, the model's memory and the store.
        otel: send traces by OpenTelemetry, set up by the variables OTEL_*; those ask for it, too.
        announce: is told the service's URL when everything is in order and it begins to answer.

    Raises:
        MissingExtraError: the extra `serve` is not installed.
        ConfigError: the host needs a key, the port cannot be listened on, or the fallbacks are
            not valid.
        BundleError: the bundle is missing or damaged, or fails its check.
        HistoryStoreError: the store cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_hanging_up_ignored())  # nothing to reload yet
        for package in ("fastapi", "uvicorn", "prometheus_client"):
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(package=package, extra="serve")
        from crossfeed.serving.histories.url import default_store_url
        from crossfeed.serving.http.guards.security import (
            keys_from_environment,
            require_keys_beyond,
        )

        require_keys_beyond(host, keys_from_environment())
        url = history_store or default_store_url(Path(bundle))
        chains = None if fallbacks is None else Path(fallbacks)
        serving = Serving(Path(bundle), url, limits, chains, traced=otel)
        log_requests()
        listening = stack.enter_context(_bind(host, port))
        at = _url(listening)
        ready = (lambda: None) if announce is None else (lambda: announce(at))
        if workers == 1:
            run_app(make_app(serving, stack), listening, ready, limits)
        else:
            _supervise(serving, listening, ready, workers)


@contextlib.contextmanager
def _hanging_up_ignored() -> Iterator[None]:
    """Let no SIGHUP end the process; only its main thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before or signal.SIG_DFL)


@dataclass(frozen=True)
class Serving:
    """What one process serves."""

    bundle: Path
    history_store: str
    """URL of the store."""
    limits: Limits
    fallbacks: Path | None
    traced: bool = False
    """Whether traces are asked for, also where no variable OTEL_* does."""


def make_app(serving: Serving, stack: contextlib.ExitStack) -> FastAPI:
    """Make the application, all in order and the store filled; the stack closes the store.

    Raises:
        ConfigError, BundleError, HistoryStoreError: as `serve`.
    """
    from crossfeed.serving.engine.reload import check_answers
    from crossfeed.serving.histories.url import open_store
    from crossfeed.serving.http.app import create_app
    from crossfeed.serving.http.guards.security import keys_from_environment
    from crossfeed.serving.operations.tracing import tracing_from_environment
    from crossfeed.serving.recommend.fallback import read_fallbacks

    bundle = Bundle.load(serving.bundle)
    chains = None if serving.fallbacks is None else read_fallbacks(serving.fallbacks, bundle)
    store = stack.enter_context(contextlib.closing(open_store(serving.history_store)))
    # Both here, because an error in the application's own start would not reach the caller.
    store.bulk.fill(bundle.histories(), origin=bundle.version)
    check_answers(bundle, fallbacks=chains)
    return create_app(
        bundle,
        store=store,
        keys=keys_from_environment(),
        limits=serving.limits,
        fallbacks=chains,
        tracing=tracing_from_environment(asked=serving.traced),
    )


def run_app(
    app: FastAPI, listening: socket.socket, ready: Callable[[], None], limits: Limits
) -> None:
    """Answer requests until the process is told to stop.

    Args:
        app: what `create_app` made.
        listening: the socket to accept from.
        ready: is called when it begins to answer.
        limits: tell how long a request may take to come, and work that has begun.
    """
    import uvicorn

    from crossfeed.serving.http.protocol import LimitedProtocol

    class Protocol(LimitedProtocol):
        head_seconds = limits.timeout_seconds

    class Server(uvicorn.Server):
        """Tells when it begins to answer, reloads on SIGHUP, and says when it is about to stop."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if not self.started:
                return
            service = app.state.service
            # Signals reach the main thread alone, and workers reload all together.
            if threading.current_thread() is threading.main_thread() and not service.colleagues:
                loop = asyncio.get_running_loop()
                reload = service.reload_model
                loop.add_signal_handler(signal.SIGHUP, loop.run_in_executor, None, reload)
            ready()

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            app.state.service.stopping = True
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        app,
        http=Protocol,
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # nothing here asks where a request came from
        timeout_graceful_shutdown=_stop_seconds(limits),
    )
    Server(config).run(sockets=[listening])


def _supervise(
    serving: Serving, listening: socket.socket, ready: Callable[[], None], workers: int
) -> None:
    """Check and fill here, so that errors come once and as they are; then start the workers."""
    from crossfeed.serving.histories.url import open_store
    from crossfeed.serving.process.supervisor import Supervisor
    from crossfeed.serving.recommend.fallback import read_fallbacks

    if serving.history_store == "sqlite://":
        raise ConfigError(
            "several workers cannot share histories in memory",
            hint="name a file, --history-store sqlite:///histories.sqlite, or keep --workers 1",
        )
    bundle = Bundle.load(serving.bundle)
    if serving.fallbacks is not None:
        read_fallbacks(serving.fallbacks, bundle)
    with contextlib.closing(open_store(serving.history_store)) as store:
        store.bulk.fill(bundle.histories(), origin=bundle.version)
    listening.listen(_BACKLOG)
    settings = {
        "bundle": str(serving.bundle),
        "history_store": serving.history_store,
        "limits": dataclasses.asdict(serving.limits),
        "fallbacks": None if serving.fallbacks is None else str(serving.fallbacks),
        "traced": serving.traced,
    }
    seconds = _stop_seconds(serving.limits) + 5.0
    Supervisor(settings, listening, workers=workers, stop_seconds=seconds).run(ready)


def _stop_seconds(limits: Limits) -> int:
    return math.ceil(2 * limits.timeout_seconds)  # a body, then its answer


def log_requests() -> None:
    """Send the request log to stderr as it is, one line of JSON each."""
    from crossfeed.serving.operations.monitoring import REQUEST_LOG

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
    except (OSError, OverflowError, UnicodeError) as error:
        if listening is not None:
            listening.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error}", hint="choose another --port or --host"
        ) from None
    return listening
