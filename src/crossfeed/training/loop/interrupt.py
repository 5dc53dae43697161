"""Ctrl-C and SIGTERM wait for the end of a step, so the saved state is consistent."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import NoReturn, Self

__all__ = ["Interruptible"]


class Interruptible:
    """Collects requests to stop while it is open; a second Ctrl-C stops at once.

    Outside the main thread, where Python allows no signal handlers, it never asks to stop.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.asked = 0
        """The number of the signal that asked to stop; 0 if none did."""
        self._quiet = quiet
        self._previous: dict[int, object] = {}

    def stop(self, number: int, command: str) -> NoReturn:
        """Leave by a signal, after the state has been saved.

        Args:
            number: the number of the signal.
            command: the command that continues.

        Raises:
            KeyboardInterrupt: the signal was Ctrl-C.
            SystemExit: with 143, the signal was SIGTERM.
        """
        if not self._quiet:
            print(f"stopped and saved; continue with: {command}", file=sys.stderr)
        if number == signal.SIGTERM:
            raise SystemExit(143)
        raise KeyboardInterrupt

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = number
