"""Several workers behind one port: uvicorn's supervisor with an end that keeps nobody waiting.

It starts a worker where one died and ends one that does not answer its pings. The parent listens
and never answers; its workers accept from the same socket, map the same files and share the history
store. They are fresh processes of this program (`spawn`), with nothing of the working directory on
their path.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType

from prometheus_client.multiprocess import mark_process_dead
from uvicorn import Config
from uvicorn.supervisors.multiprocess import SIGNALS, Multiprocess, Process

from crossfeed.errors import ConfigError
from crossfeed.serving.operations.worker_folder import WorkerFolder
from crossfeed.serving.process.application import Serving
from crossfeed.serving.process.uvicorn_server import make_config, stop_seconds
from crossfeed.serving.process.worker import worker_server

__all__ = ["WorkerGroup", "run_workers"]

_log = logging.getLogger(__name__)

_SPARE_SECONDS = 5.0
"""How much longer than its requests a worker may take to end."""
_WORKER_MODULE = "crossfeed.serving.process.worker:worker_server"


def run_workers(
    serving: Serving,
    listening: socket.socket,
    *,
    version: str,
    workers: int,
    ready: Callable[[], None],
) -> None:
    """Answer requests by several processes until this one is told to stop.

    Args:
        serving: what they serve.
        listening: the socket from which they accept.
        version: the model that they serve first, unless another one is pinned.
        workers: how many.
        ready: is called once all of them answer.

    Raises:
        ConfigError: a worker does not start.
    """
    with _worker_folder() as folder:
        folder.remember(version)
        group = WorkerGroup(replace(serving, workers=folder), listening, workers=workers)
        received = group.serve(ready)
    if received is not None:
        signal.raise_signal(received)


class WorkerGroup(Multiprocess):
    """Workers of one port."""

    def __init__(self, serving: Serving, listening: socket.socket, *, workers: int) -> None:
        self._serving = serving
        self._received: int | None = None
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        super().__init__(make_config(_WORKER_MODULE, serving.limits, workers=workers), [listening])
        for number, handler in self._before.items():
            if number not in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, handler)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop_at_once)

    def serve(self, ready: Callable[[], None]) -> int | None:
        """Run until a signal ends it; return that signal.

        Raises:
            ConfigError: a worker does not start.
        """
        self._ready = ready
        try:
            self.run()
        finally:
            self.terminate_all()
            self.join_all()
            for number, handler in self._before.items():
                signal.signal(number, handler)
        return self._received

    def init_processes(self) -> None:
        """Start the workers and wait until all of them answer."""
        self.processes = [self._start() for _ in range(self.processes_num)]
        for process in self.processes:
            while not process.is_ready(timeout=1):
                if self._is_stopping():
                    return
                if not process.process.is_alive():
                    raise ConfigError(
                        "a worker did not start: the log tells why",
                        hint="try it alone: --workers 1",
                    )
                time.sleep(0.05)
        self._ready()

    def keep_subprocess_alive(self) -> None:
        """Start a worker where one died or does not answer; whatever its end, the others go on."""
        for place, process in enumerate(self.processes):
            if self._is_stopping():
                return
            if process.is_alive(timeout=self.config.timeout_worker_healthcheck):
                continue
            process.kill()  # it may hang
            process.join()
            if self._is_stopping():
                return
            _log.error("worker %s ended: %s; another starts", process.pid, process.exitcode)
            self._forget_gauges(process)
            self.processes[place] = self._start()

    def terminate_all(self) -> None:
        """Tell the workers to finish."""
        for process in self.processes:
            if process.process.is_alive():
                process.process.terminate()

    def join_all(self) -> None:
        """Wait for the workers; end those that take too long."""
        deadline = time.monotonic() + stop_seconds(self._serving.limits) + _SPARE_SECONDS
        for process in self.processes:
            process.process.join(max(0.0, deadline - time.monotonic()))
            if process.process.is_alive():
                process.kill()
                process.join()

    def _is_stopping(self) -> bool:
        return self._received is not None

    def _start(self) -> _Worker:
        worker = _Worker(self._serving, self.config, self.sockets)
        worker.start()
        return worker

    def _forget_gauges(self, process: Process) -> None:
        """Drop what holds of living processes only; what a worker counted stays in the sums."""
        assert self._serving.workers is not None
        mark_process_dead(process.pid, str(self._serving.workers.metrics))  # type: ignore[no-untyped-call]

    def _stop_at_once(self, number: int, frame: FrameType | None) -> None:
        """Listen no more, so that new clients are refused while the workers finish."""
        self._received = number
        for listening in self.sockets:
            listening.close()
        self.terminate_all()
        self.signal_queue.append(number)


class _Worker(Process):
    """One process; it makes its server from the settings that it receives."""

    def __init__(self, serving: Serving, config: Config, sockets: list[socket.socket]) -> None:
        self._serving = serving
        super().__init__(config, sockets)

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer requests; called in the new process."""
        self._server = worker_server(self._serving)
        super().target(sockets)


@contextlib.contextmanager
def _worker_folder() -> Iterator[WorkerFolder]:
    """Make a folder that workers share, and tell processes that start inside the block of it."""
    with tempfile.TemporaryDirectory(prefix="crossfeed-workers-") as path:
        folder = WorkerFolder(Path(path))
        folder.metrics.mkdir()
        # prometheus_client looks there when it is imported. A safe path keeps the interpreter from
        # importing modules that lie in the working directory.
        with _environment(PROMETHEUS_MULTIPROC_DIR=str(folder.metrics), PYTHONSAFEPATH="1"):
            yield folder


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
