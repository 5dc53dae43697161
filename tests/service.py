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

if __name__ == "__main__":
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
        folder: Path | None = None,
    ) -> None:
        self._log = log.open("a")
        script = log.with_name(f"{log.name}-serve.py")
        script.write_text(_SERVE)
        self.process = subprocess.Popen(
            [
                *(sys.executable, str(script), str(bundle), store_url),
                *(str(workers), str(timeout_seconds)),
            ],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=folder,
            env={**os.environ, KEYS_VARIABLE: keys},
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, log.read_text()

    @property
    def workers(self) -> set[int]:
        """Return the processes that answer, where there are several."""
        main = self.process.pid
        listed = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        return {int(child) for child in listed if b"spawn_main" in _command(int(child))}

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


def is_running(process: int) -> bool:
    """Return whether a process is there and is not just waiting to be reaped."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def _command(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:  # it has just ended
        return b""
