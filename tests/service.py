"""The service as a process of its own, to be ended in any way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from crossfeed.serving.http.guards.security import KEYS_VARIABLE

_SERVE = """
import sys
from crossfeed.serving.http.guards.limits import Limits
from crossfeed.serving.process.server import serve

serve(
    sys.argv[1],
    port=0,
    history_store=sys.argv[2],
    workers=int(sys.argv[3]),
    limits=Limits(timeout_seconds=float(sys.argv[4])),
    announce=lambda url: print(url, flush=True),
)
"""


class Service:
    """A service on a free port; at the end of its block it is killed if it still runs."""

    def __init__(
        self,
        bundle: Path,
        store_url: str,
        *,
        log: Path,
        keys: str = "",
        workers: int = 1,
        timeout_seconds: float = 10.0,
    ) -> None:
        self._log = log.open("a")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-c", _SERVE, str(bundle), store_url),
                *(str(workers), str(timeout_seconds)),
            ],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, KEYS_VARIABLE: keys},
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, log.read_text()

    def end(self, how: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(how)
        return self.process.wait(timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGKILL)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()
