"""How far a fit has come, and the figures of the running epoch, as a checkpoint holds them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from crossfeed.training.parallel.distributed import Workers
from crossfeed.training.step.device_copies import Later
from crossfeed.training.step.steps import TargetLoss
from crossfeed.training.watch.health import HealthSums

__all__ = ["SUMS", "EpochFigures", "FitProgress"]

SUMS = ("losses", "health_sums", "health_counts")
"""Fields that each process accumulates itself, over its own batches."""


@dataclass
class FitProgress:
    """How far a fit has come; with the weights and the random state all that a resume needs."""

    epoch: int = 0
    step: int = 0
    best: float = float("-inf")
    best_epoch: int = 0
    finished: bool = False
    seconds: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)
    """Sums of the running epoch's losses."""
    health_sums: dict[str, float] = field(default_factory=dict)
    """The content of `HealthSums` for the running epoch."""
    health_counts: dict[str, int] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)  # Any: JSON
    health: list[dict[str, Any]] = field(default_factory=list)  # Any: JSON
    floor: float | None = None
    """Popularity's validation figure, once it has been measured."""
    roll_backs: int = 0
    rates: list[float] = field(default_factory=list)
    """Learning rate of each epoch behind the present weights, as a factor of
    `train.learning_rate`. An epoch that was rolled back is not among them."""
    best_rates: list[float] = field(default_factory=list)
    """The same for the best weights: the schedule of a refit."""

    @classmethod
    def of(cls, kept: dict[str, Any]) -> FitProgress:  # Any: see run.Checkpoint
        """Return what a checkpoint holds; version 0.1 did not write the rates."""
        epochs = {"rates": kept["epoch"], "best_rates": kept["best_epoch"] + 1}
        return cls(**{**{name: [1.0] * count for name, count in epochs.items()}, **kept})


class EpochFigures:
    """Losses and health of the running epoch, summed into the progress."""

    def __init__(self, progress: FitProgress) -> None:
        self._progress = progress
        self._losses = Later(self._take_loss)
        self.health = HealthSums(progress.health_sums, progress.health_counts)

    def add_losses(self, losses: TargetLoss, *terms: str) -> None:
        """Count terms of a step's target loss."""
        for term in terms:
            self._losses.add(term, getattr(losses, term))

    def mean_losses(self) -> dict[str, float]:
        """Return each term's mean over the steps that had it."""
        self._losses.settle()
        sums = self._progress.losses
        return {
            name: value / sums[f"{name} steps"]
            for name, value in sums.items()
            if not name.endswith(" steps")
        }

    def settle(self) -> None:
        """Take in what still waits on the device."""
        self._losses.settle()
        self.health.settle()

    def add_up(self, workers: Workers) -> None:
        """Replace this process's sums by the sums over all processes, at the end of an epoch."""
        self.settle()
        sums, health = self._progress.losses, self.health
        sums.update(workers.added(sums))
        health.sums.update(workers.added(health.sums))
        health.counts.update(workers.added(health.counts))

    def clear(self) -> None:
        """Begin a new epoch."""
        self._progress.losses.clear()
        self.health.clear()

    def _take_loss(self, term: str, value: float) -> None:
        sums = self._progress.losses
        sums[term] = sums.get(term, 0.0) + value
        sums[f"{term} steps"] = sums.get(f"{term} steps", 0.0) + 1
