"""From a folder of bundles to a listening service."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from crossfeed.errors import ConfigError, MissingExtraError
from crossfeed.serving.http.guards.access import Access, local_access
from crossfeed.serving.http.guards.limits import Limits

__all__ = ["serve"]

_DEFAULTS = Limits()
_ANYWHERE = Access()


def serve(
    bundles: Path | str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    history_store: str | None = None,
    limits: Limits = _DEFAULTS,
    access: Access = _ANYWHERE,
    fallbacks: Path | str | None = None,
    workers: int = 1,
    otel: bool = False,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve a bundle over HTTP until the process is told to stop.

    Among several bundles it serves the one that is pinned in the history store; where none is, it
    pins the newest.

    Args:
        bundles: a bundle's folder, or one with a folder for each version; it is only read.
        host: the address to listen on; beyond loopback an API key must be set in the environment
            variable CROSSFEED_API_KEYS.
        port: the port to listen on.
        history_store: URL of the history store; by default a file beside the folder.
        limits: what the process takes on; see `Limits`.
        access: which hosts are answered, and which other sites' pages may ask; without keys it is
            this machine's own names alone, unless it names others.
        fallbacks: a TOML file with the fallback of each domain, for users without history.
        workers: how many processes answer; they share the port, the model's memory and the store.
        otel: send traces by OpenTelemetry, set up by the variables OTEL_*; those ask for it, too.
        announce: is told the service's URL when everything is in order and it begins to answer.

    Raises:
        MissingExtraError: the extra `serve` is not installed.
        ConfigError: the host needs a key, the port cannot be listened on, or the fallbacks are
            not valid.
        BundleError: no bundle can be loaded.
        HistoryStoreError: the store cannot be opened.
    """
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package=package, extra="serve")
    from crossfeed.serving.engine.versions import Versions, pinned_versions
    from crossfeed.serving.histories.url import default_store_url, open_store
    from crossfeed.serving.http.guards.security import keys_from_environment, require_keys_beyond
    from crossfeed.serving.operations.monitoring import log_requests
    from crossfeed.serving.process.application import Serving, first_bundle, make_app
    from crossfeed.serving.recommend.fallback import read_fallbacks

    keys = keys_from_environment()
    require_keys_beyond(host, keys)
    access = access if keys else local_access(access, host=host)
    Versions(Path(bundles)).require()
    url = history_store or default_store_url(Path(bundles))
    _require_shared(url, workers)
    serving = Serving(Path(bundles), url, limits, access, traced=otel)
    log_requests()
    with _bind(host, port) as listening:
        with contextlib.closing(open_store(url)) as store:
            pinned = pinned_versions(store)
        bundle = first_bundle(serving, pinned, others=True, checked=workers == 1)
        if fallbacks is not None:
            serving = replace(serving, fallbacks=read_fallbacks(fallbacks, bundle))
        at = _url(listening)
        ready = (lambda: None) if announce is None else (lambda: announce(at))
        if workers == 1:
            from crossfeed.serving.process.uvicorn_server import ServiceServer

            app = make_app(serving, bundle)
            ServiceServer(lambda: app, limits, ready=ready).run(sockets=[listening])
        else:
            from crossfeed.serving.process.worker_group import run_workers

            run_workers(serving, listening, version=bundle.version, workers=workers, ready=ready)


def _require_shared(url: str, workers: int) -> None:
    if url == "sqlite://" and workers > 1:
        raise ConfigError(
            "several workers cannot share histories in memory",
            hint="name a file, --history-store sqlite://histories.sqlite, or keep --workers 1",
        )


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
