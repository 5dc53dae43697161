"""One of several processes that answer: `python -m crossfeed.serving.process.worker SOCKET PIPE`.

Started by the supervisor, which hands over a listening socket, a pipe and, as the first thing in
it, the settings. Where the supervisor dies, the worker finishes its work and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from crossfeed.errors import BundleError, CrossfeedError
from crossfeed.serving.engine.reload import Reloaded
from crossfeed.serving.http.app import Service
from crossfeed.serving.http.guards.access import Access
from crossfeed.serving.http.guards.limits import Limits
from crossfeed.serving.process.channel import Channel, Facts
from crossfeed.serving.process.server import Serving, log_requests, make_app, run_app

__all__ = ["main"]

_RELOAD_SECONDS = 660.0
_PAGES_SECONDS = 20.0


class Colleagues:
    """All workers together, as one of them sees them through the supervisor."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def reload(self) -> Reloaded:
        """Put another model into service in all workers, or in none.

        Raises:
            BundleError: one of them refused it; all serve what they did before.
        """
        facts = self._channel.ask("reload", seconds=_RELOAD_SECONDS)
        if "error" in facts:
            raise BundleError(facts["error"])
        return Reloaded(facts["version"], changed=facts["changed"])

    def pages(self) -> dict[str, str]:
        """Return the metrics of each worker that answers."""
        return dict(self._channel.ask("pages", seconds=_PAGES_SECONDS)["pages"])


def main() -> None:
    """Answer requests until told to stop."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor reloads all together
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    listening = socket.socket(fileno=int(sys.argv[1]))
    pipe = Connection(int(sys.argv[2]))
    settings = json.loads(pipe.recv_bytes())
    serving = Serving(
        Path(settings["bundle"]),
        settings["history_store"],
        Limits(**settings["limits"]),
        None if settings["fallbacks"] is None else Path(settings["fallbacks"]),
        Access(**settings["access"]),
        traced=settings["traced"],
    )
    log_requests()
    service: Service | None = None

    def answer(what: str, facts: Facts) -> Facts:
        assert service is not None
        return _answer(service, what)

    channel = Channel(pipe, answer, closed=lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        with contextlib.ExitStack() as stack:
            app = make_app(serving, stack)
            service = app.state.service
            service.colleagues = Colleagues(channel)
            channel.start()
            ready = {"version": service.model.bundle.version}
            run_app(app, listening, lambda: channel.tell("ready", **ready), serving.limits)
    except CrossfeedError as error:
        channel.tell("failed", message=str(error))
        sys.exit(1)


def _answer(service: Service, what: str) -> Facts:
    """Answer the supervisor."""
    match what:
        case "prepare":
            try:
                return {"version": service.model.prepare()}
            except BundleError as error:
                service.monitoring.reload_failed(error)
                return {"error": str(error)}
        case "commit":
            reloaded = service.model.commit()
            service.monitoring.reloaded(reloaded)
            return {"changed": reloaded.changed}
        case "drop":
            service.model.drop()
            return {}
        case "page":
            return {"page": service.monitoring.page().decode()}
    raise AssertionError(what)


if __name__ == "__main__":
    main()
