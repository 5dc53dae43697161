"""Signs of life of a training's processes, so that a lost one is named and nobody waits for it.

A process that dies leaves the others waiting in the next exchange: gloo tells them that a
connection was closed, NCCL nothing for minutes. So every process counts upwards in the store that
all of them joined through. The leader watches all counts, the others the leader's.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta

from torch._C._distributed_c10d import TCPStore  # torch.distributed exports it untyped

from crossfeed.errors import WorkerLostError

__all__ = ["Heartbeat"]

_BEAT_SECONDS = 0.5
_SURE_SECONDS = 3.0
"""Silence after which a process is lost, once an exchange has failed."""
_SILENT_SECONDS = 20.0
"""Silence after which a process is lost though no exchange has failed; torchrun kills the others 30
seconds after the first that died."""
_STORE_SECONDS = 10.0
_FAILED = "failed"


class Heartbeat:
    """The counts of all processes; each raises its own."""

    def __init__(self, *, rank: int, count: int) -> None:
        """Begin to beat.

        Args:
            rank: the number of this process.
            count: how many processes there are.
        """
        self._rank, self._count = rank, count
        self._prefix = f"crossfeed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        self._store = _connect()
        self._own = _connect()  # a client answers one thread at a time
        self._store.set(self._key("place", rank), f"host {socket.gethostname()}, pid {os.getpid()}")
        self._own.set(self._key("beat", rank), "0")
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop beating, in good order."""
        self._stopped.set()
        self._thread.join()

    def fail(self) -> bool:
        """Tell the others that this process ends by an error, and return whether it is the first.

        Only the first says what happened, so that an error that all meet is shown once.
        """
        self.stop()
        try:
            self._store.set(self._key("beat", self._rank), _FAILED)
            return self._is_first(self._store)
        except (RuntimeError, OSError):  # the store is gone, and with it whoever else might tell
            return True

    def find_lost(self) -> WorkerLostError | None:
        """Return which process is lost, if one is, after an exchange has failed."""
        try:
            before = self._counts()
            time.sleep(_SURE_SECONDS)
            after = self._counts()
            silent = [
                rank
                for rank in range(self._count)
                if rank != self._rank and (after[rank] == before[rank] or after[rank] == _FAILED)
            ]
            return self._lost(silent) if silent else None
        except (RuntimeError, OSError):
            return self._lost([])

    def _run(self) -> None:
        watched = [0] if self._rank else list(range(1, self._count))
        heard = {rank: ("", time.monotonic()) for rank in watched}
        beats = 0
        try:
            while not self._stopped.wait(_BEAT_SECONDS):
                beats += 1
                self._own.set(self._key("beat", self._rank), str(beats))
                if beats % 4 == 0:
                    self._watch(heard)
        except (RuntimeError, OSError):
            if not self._stopped.wait(_SILENT_SECONDS):  # an exchange would have told by now
                self._end(self._lost([]))

    def _watch(self, heard: dict[int, tuple[str, float]]) -> None:
        keys = [self._key("beat", rank) for rank in heard]
        now = time.monotonic()
        for rank, told in zip(list(heard), self._own.multi_get(keys), strict=True):
            count = told.decode()
            if count != heard[rank][0]:
                heard[rank] = (count, now)
            elif now - heard[rank][1] > _SILENT_SECONDS:
                self._end(self._lost([rank]), told=not self._is_first(self._own))

    def _end(self, error: WorkerLostError, *, told: bool = False) -> None:
        """End this process from its thread: the main one may wait for ever."""
        if self._stopped.is_set():
            return
        if not told:
            print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr, flush=True)
        os._exit(1)

    def _is_first(self, store: TCPStore) -> bool:
        return int(store.add(self._key("told", 0), 1)) == 1

    def _lost(self, ranks: Sequence[int]) -> WorkerLostError:
        places = []
        for rank in ranks:
            key = self._key("place", rank)
            places.append(f"process {rank} ({self._store.get(key).decode()})")
        return WorkerLostError(", ".join(places) or "the process that the others met at")

    def _counts(self) -> list[str]:
        keys = [self._key("beat", rank) for rank in range(self._count)]
        return [told.decode() for told in self._store.multi_get(keys)]

    def _key(self, kind: str, rank: int) -> str:
        return f"{self._prefix}/{kind}/{rank}"


def _connect() -> TCPStore:
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timedelta(seconds=_STORE_SECONDS),
    )
