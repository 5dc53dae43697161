"""A thread of its own writes the service's log: no request waits for a slow reader of it."""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
import time
from typing import TextIO

__all__ = ["LogWriter", "dropped_lines", "write_logs"]

_MOST_LINES = 10_000
"""Lines that wait to be written; more are dropped and counted."""
_GATHER_SECONDS = 0.01
"""How long lines gather before they are written together: a thread that woke up for each of them
would take the interpreter from the answers."""
_CLOSE_SECONDS = 1.0
"""How long the end of the process waits for the last lines."""


class LogWriter(logging.Handler):
    """Hands lines to a thread that writes them; drops them if too many wait."""

    def __init__(self, stream: TextIO | None = None, *, most_lines: int = _MOST_LINES) -> None:
        """Begin to write.

        Args:
            stream: where to; by default stderr.
            most_lines: how many may wait.
        """
        super().__init__()
        self.dropped = 0
        """Lines that were not written because too many waited."""
        self._stream = stream or sys.stderr
        self._lines: queue.Queue[str | None] = queue.Queue(most_lines)
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a line over, or count it."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self.dropped += 1  # under the handler's lock

    def close(self) -> None:
        """Write what waits, unless nobody reads it."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
            self._thread.join(_CLOSE_SECONDS)
        super().close()

    def _write(self) -> None:
        ended = False
        while not ended:
            lines = [self._lines.get()]
            time.sleep(_GATHER_SECONDS)
            with contextlib.suppress(queue.Empty):
                while True:
                    lines.append(self._lines.get_nowait())
            ended = None in lines
            with contextlib.suppress(OSError, ValueError):  # nobody will read it any more
                self._stream.write("".join(f"{line}\n" for line in lines if line is not None))
                self._stream.flush()


def write_logs(*names: str, level: int) -> LogWriter:
    """Have loggers write to stderr as their lines are, and nowhere else; return what writes."""
    writer = LogWriter()
    for name in names:
        log = logging.getLogger(name)
        log.propagate = False
        log.setLevel(level)
        log.handlers = [writer]
    return writer


def dropped_lines(log: logging.Logger) -> int:
    """Return how many lines of a logger were dropped."""
    return sum(one.dropped for one in log.handlers if isinstance(one, LogWriter))
