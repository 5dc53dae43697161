"""One of several processes that answer: it starts on the model that the others serve."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

from crossfeed.bundle import Bundle
from crossfeed.errors import BundleError, HistoryStoreError
from crossfeed.serving.engine.versions import pinned_versions
from crossfeed.serving.histories.url import open_store
from crossfeed.serving.operations.monitoring import log_requests
from crossfeed.serving.process.application import Serving, first_bundle, make_app
from crossfeed.serving.process.uvicorn_server import ServiceServer

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["worker_server"]

_log = logging.getLogger(__name__)

_LONGEST_PAUSE_SECONDS = 60.0


def worker_server(serving: Serving) -> ServiceServer:
    """Return the server of a worker; it finishes its work and ends where its parent dies."""

    def make() -> FastAPI:
        _end_with_parent()
        log_requests()
        return make_app(serving, _wait_for_bundle(serving))

    return ServiceServer(make, serving.limits, ready=lambda: None)


def _wait_for_bundle(serving: Serving) -> Bundle:
    """Return the pinned model, or else the last one that can be loaded; wait until there is one.

    Only versions that were in service will do: a crash must not deploy what lies there by then.
    """
    assert serving.workers is not None
    pause = 1.0
    while True:
        pinned = _pinned(serving)
        try:
            wanted = [*pinned[:1], serving.workers.last_version(), *pinned[1:]]
            return first_bundle(serving, wanted, others=False)
        except BundleError as error:
            _log.error("no model can be loaded, trying again in %g s: %s", pause, error)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _pinned(serving: Serving) -> list[str]:
    try:
        with contextlib.closing(open_store(serving.history_store)) as store:
            return pinned_versions(store)
    except HistoryStoreError:  # the application opens it again, and tells
        return []


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()
