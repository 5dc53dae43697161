"""Several worker processes behind one port: started, watched, told to reload, ended.

The process in charge listens and never answers; its workers accept from the same socket, map the
same files and share the history store. It speaks with them over pipes (`channel.py`).
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

from crossfeed.errors import ConfigError
from crossfeed.serving.process.channel import Channel, ChannelClosed, Facts

__all__ = ["Supervisor"]

_log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_LOAD_SECONDS = 600.0
_ANSWER_SECONDS = 10.0
_PAGE_SECONDS = 2.0
"""Prometheus gives up after 10 s by default, and a page of the others is better than none."""
_PAUSE_SECONDS = 1.0
"""Between the end of a worker that nobody ended and the next one in its place."""


class Supervisor:
    """Keeps workers running."""

    def __init__(
        self, settings: Facts, listening: socket.socket, *, workers: int, stop_seconds: float
    ) -> None:
        """Make ready.

        Args:
            settings: what each worker is told; see `worker.py`.
            listening: the socket from which they accept.
            workers: how many.
            stop_seconds: how long a worker may take to finish what it is working on.
        """
        self._settings, self._listening = settings, listening
        self._stop_seconds = stop_seconds
        self._workers = [_Worker(str(number), self._answer) for number in range(workers)]
        self._reloading = threading.Lock()

    def run(self, announce: Callable[[], None]) -> None:
        """Start the workers and keep them running until this process is told to stop.

        Args:
            announce: is called once all of them answer.

        Raises:
            ConfigError: a worker cannot start; the message is its own.
        """
        # Blocked, signals wait until they are asked for: none comes at a bad moment.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        received = None
        try:
            for worker in self._workers:
                worker.start(self._settings, self._listening)
            for worker in self._workers:
                worker.wait_until_ready()
            announce()
            received = self._watch()
        finally:
            self._stop()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.raise_signal(received)

    def _watch(self) -> signal.Signals:
        """Restart what dies and reload when told to; return the signal that ends it."""
        while True:
            received = signal.sigtimedwait(_SIGNALS, _PAUSE_SECONDS)
            number = None if received is None else received.si_signo
            if number in (signal.SIGTERM, signal.SIGINT):
                return signal.Signals(number)
            if number == signal.SIGHUP:
                threading.Thread(target=self.reload, daemon=True).start()
            for worker in self._workers:
                if not worker.is_alive:
                    self._replace(worker)

    def _replace(self, worker: _Worker) -> None:
        _log.error("worker %s ended with code %s; another takes its place", *worker.end())
        time.sleep(_PAUSE_SECONDS)
        worker.start(self._settings, self._listening)
        threading.Thread(target=self._admit, args=(worker,), daemon=True).start()

    def _admit(self, worker: _Worker) -> None:
        """Have all workers serve what a new one found in the folder, if it is another model."""
        try:
            worker.wait_until_ready()
        except ConfigError as error:
            _log.error("%s", error)  # it has ended: the next one tries again
            return
        if len({one.version for one in self._workers if one.is_alive}) > 1:
            self.reload()

    def reload(self) -> Facts:
        """Put what lies in the bundle's folder into service in all workers, or in none.

        Returns:
            `version` and `changed`, or `error`.
        """
        with self._reloading:
            prepared = self._ask_all("prepare", seconds=_LOAD_SECONDS)
            errors = sorted({one["error"] for one in prepared if "error" in one})
            versions = {one.get("version") for one in prepared}
            if errors or len(versions) != 1:
                self._ask_all("drop", seconds=_ANSWER_SECONDS)
                return {"error": errors[0] if errors else "the folder changed meanwhile"}
            done = self._ask_all("commit", seconds=_ANSWER_SECONDS)
            for worker in self._workers:
                worker.version = prepared[0]["version"]
        changed = any(one.get("changed") for one in done)
        return {"version": prepared[0]["version"], "changed": changed}

    def _answer(self, what: str, facts: Facts) -> Facts:
        """Answer a worker."""
        if what == "reload":
            return self.reload()
        assert what == "pages"
        told = self._ask_all("page", seconds=_PAGE_SECONDS)
        pairs = zip(self._workers, told, strict=True)
        return {"pages": {one.name: page["page"] for one, page in pairs if "page" in page}}

    def _ask_all(self, what: str, *, seconds: float) -> Sequence[Facts]:
        with ThreadPoolExecutor(len(self._workers)) as pool:
            return list(pool.map(lambda one: one.ask(what, seconds=seconds), self._workers))

    def _stop(self) -> None:
        for worker in self._workers:
            worker.tell_to_stop()
        deadline = time.monotonic() + self._stop_seconds
        for worker in self._workers:
            worker.end(max(0.0, deadline - time.monotonic()))


class _Worker:
    """One worker process and the pipe to it; another process may take its place."""

    def __init__(self, name: str, answer: Callable[[str, Facts], Facts]) -> None:
        self.name, self._answer = name, answer
        self.version = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, settings: Facts, listening: socket.socket) -> None:
        """Start a process that accepts from a socket."""
        ours, theirs = socket.socketpair()
        self._settled, self._problem = threading.Event(), ""
        command = [sys.executable, "-m", "crossfeed.serving.process.worker"]
        pipe = Connection(ours.detach())
        pipe.send_bytes(json.dumps({**settings, "worker": self.name}).encode())
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(listening.fileno()), str(theirs.fileno())],
                pass_fds=(listening.fileno(), theirs.fileno()),
                start_new_session=True,  # Ctrl-C is for the one in charge
            )
        self._channel = Channel(pipe, self._hear, closed=self._settled.set)
        self._channel.start()

    def wait_until_ready(self) -> None:
        """Wait until it answers requests.

        Raises:
            ConfigError: it cannot.
        """
        self._settled.wait(_LOAD_SECONDS)
        if not self.version or self._problem or not self.is_alive:
            raise ConfigError(f"worker {self.name} did not start: {self._problem or 'see the log'}")

    def ask(self, what: str, *, seconds: float) -> Facts:
        """Ask it; what it cannot answer is an `error`."""
        try:
            assert self._channel is not None
            return self._channel.ask(what, seconds=seconds)
        except ChannelClosed as error:
            return {"error": f"worker {self.name}: {error}"}

    def tell_to_stop(self) -> None:
        if self._process is not None and self.is_alive:
            self._process.terminate()

    def end(self, seconds: float = 0.0) -> tuple[str, int]:
        """Return its name and exit code, after waiting and then killing it."""
        if self._process is None:
            return self.name, 0
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return self.name, code

    def _hear(self, what: str, facts: Facts) -> Facts:
        if what == "ready":
            self.version = facts["version"]
            self._settled.set()
            return {}
        if what == "failed":
            self._problem = facts["message"]
            self._settled.set()
            return {}
        return self._answer(what, facts)
