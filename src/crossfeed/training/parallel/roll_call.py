"""Finding a lost process: after a failure all others answer.

torchrun ends all processes when one has died; an exchange with it fails, or is ended with them.
"""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta

from torch._C._distributed_c10d import TCPStore  # torch.distributed exports it untyped

from crossfeed.errors import WorkerLostError

__all__ = ["RollCall"]

_ANSWER_SECONDS = 3.0
"""Time for the others to answer: all notice a broken connection at the same time."""
_STORE_SECONDS = 10.0


class RollCall:
    """Answers of all processes, in the store that they joined through."""

    def __init__(self, *, rank: int, count: int) -> None:
        """Tell the others where this process is.

        Args:
            rank: the number of this process.
            count: how many processes there are.
        """
        self._rank, self._count = rank, count
        self._prefix = f"crossfeed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        self._store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=_STORE_SECONDS),
        )
        place = f"process {rank} (host {socket.gethostname()}, pid {os.getpid()})"
        self._store.set(self._key("place", rank), place)

    def speaks(self) -> bool:
        """Return whether this process is the first to say why all end; only the first says it."""
        try:
            return int(self._store.add(self._key("told", 0), 1)) == 1
        except (RuntimeError, OSError):  # the store is gone, so no other process can say it
            return True

    def find_lost(self) -> WorkerLostError | None:
        """Answer, and return the processes that do not, if there are any."""
        try:
            self._store.set(self._key("here", self._rank), "")
            time.sleep(_ANSWER_SECONDS)
            lost = [
                self._store.get(self._key("place", rank)).decode()
                for rank in range(self._count)
                if not self._store.check([self._key("here", rank)])
            ]
        except (RuntimeError, OSError):
            return WorkerLostError("the process that the others met at")
        return WorkerLostError(", ".join(lost)) if lost else None

    def _key(self, kind: str, rank: int) -> str:
        return f"{self._prefix}/{kind}/{rank}"
