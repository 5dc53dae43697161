"""How far a fit has come, as a checkpoint can hold it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["SUMS", "FitProgress"]

SUMS = ("sums", "counts")
"""Fields that each process accumulates itself."""


@dataclass
class FitProgress:
    """How far a fit has come; with the weights and the random state all that a resume needs."""

    epoch: int = 0
    step: int = 0
    best: float = float("-inf")
    best_epoch: int = 0
    finished: bool = False
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    """Sums of the running epoch's losses and health by name, see `Means`."""
    counts: dict[str, int] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)  # Any: JSON
    health: list[dict[str, Any]] = field(default_factory=list)  # Any: JSON
    floor: float | None = None
    """Popularity's validation figure, once it has been measured."""
    roll_backs: int = 0
