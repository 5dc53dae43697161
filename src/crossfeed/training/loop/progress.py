"""The progress of a fit, as a checkpoint holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["LOSS", "SUMS", "FitProgress"]

LOSS = "loss "
"""Prefix of the losses' names among the means of an epoch."""

SUMS = ("sums", "counts")
"""Fields that each process accumulates itself, over its own batches."""


@dataclass
class FitProgress:
    """The progress of a fit; a resume needs it, the weights and the random state."""

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
    rates: list[float] = field(default_factory=list)
    """Learning rate of each epoch of the present weights, as a factor of
    `train.learning_rate`. An epoch that was rolled back is not among them."""
    best_rates: list[float] = field(default_factory=list)
    """The same for the best weights: the schedule of a refit."""
    best_share: float = 1.0
    """The personal share of the best weights, which a refit takes over."""
