"""Which model is in service: one fact that all processes of a history store share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Pin", "PinReader"]


@dataclass(frozen=True, slots=True)
class Pin:
    """One decision about the model in service."""

    sequence: int
    """Grows with every decision."""
    version: str
    """The version of the bundle."""
    timestamp: int
    """Milliseconds since 1970 (UTC)."""


class PinReader(Protocol):
    """Anything that knows which model is pinned."""

    def pins(self, *, limit: int) -> Sequence[Pin]:
        """Return the newest pins, newest first; the first is in force."""
