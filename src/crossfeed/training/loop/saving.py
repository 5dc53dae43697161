"""When a step is followed by a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

__all__ = ["Saving"]

_LEAST_WORK = 20
"""Time that passes between two checkpoints, in multiples of what one took: at most a twentieth of
a training is spent on them, however large the tables and slow the disk."""


class Saving:
    """Saves when it is asked to, and says within an epoch when it is time again."""

    def __init__(self, *, minutes: float, write: Callable[[], Any]) -> None:
        self._seconds, self._write = minutes * 60, write
        self._saved, self._took = time.monotonic(), 0.0

    def due(self) -> bool:
        """Return whether enough time has passed since the last checkpoint."""
        waits = max(self._seconds, _LEAST_WORK * self._took)
        return self._seconds > 0 and time.monotonic() - self._saved >= waits

    def save(self) -> None:
        """Write a checkpoint now."""
        began = time.monotonic()
        self._write()
        self._saved = time.monotonic()
        self._took = self._saved - began
