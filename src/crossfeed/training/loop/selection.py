"""Which epoch of a fit is the best, when the fit ends, and the reaction to a collapse.

It decides by figures alone, without networks and files.
"""

from __future__ import annotations

from typing import Literal

from crossfeed.config import TrainConfig
from crossfeed.training.loop.progress import FitProgress

__all__ = ["MOST_ROLL_BACKS", "Recovery", "Selection"]

MOST_ROLL_BACKS = 3
"""Most roll-backs; the next collapse ends the training."""

Recovery = Literal["keep", "nothing", "roll back", "stop"]
"""The reaction to an epoch: keep its weights as healthy, do nothing, return to the last healthy
weights, or end the training."""


class Selection:
    """Judges the epochs of a fit, and writes its decisions into the fit's progress."""

    def __init__(self, progress: FitProgress, train: TrainConfig, *, epochs: int) -> None:
        """Judge by the settings of a training.

        Args:
            progress: of the fit; it holds the decisions so far.
            train: its `patience` and `on_collapse` are used.
            epochs: the largest number of epochs.
        """
        self._progress, self._train, self._epochs = progress, train, epochs

    def judge(self, value: float | None, *, personal_share: float = 1.0) -> bool:
        """Return whether the epoch that ends is the best so far, and decide whether it is the last.

        Args:
            value: its validation figure; None if nothing is validated, as in a refit. Then the
                newest epoch is the best.
            personal_share: that it was reached with.
        """
        progress = self._progress
        progress.rates.append(self.rate)
        is_best = value is None or value > progress.best
        if is_best:
            progress.best = float("inf") if value is None else value
            progress.best_epoch = progress.epoch
            progress.best_rates = list(progress.rates)
            progress.best_share = personal_share
        stale = progress.epoch - progress.best_epoch
        last = progress.epoch + 1 >= self._epochs
        progress.finished = last or stale >= self._train.patience
        return is_best

    def recover(self, *, collapsed: bool, has_healthy: bool) -> Recovery:
        """Decide the reaction to an epoch that has been judged.

        Args:
            collapsed: whether the epoch raised an alarm.
            has_healthy: whether there are healthy weights to go back to.
        """
        progress = self._progress
        if self._train.on_collapse != "roll-back" or progress.finished:
            return "nothing"
        if not collapsed:
            return "keep"
        if not has_healthy:
            return "nothing"
        if progress.roll_backs == MOST_ROLL_BACKS:
            progress.finished = True
            return "stop"
        progress.roll_backs += 1
        progress.rates.pop()
        return "roll back"

    @property
    def rate(self) -> float:
        """Return the present learning rate, as a factor of `train.learning_rate`."""
        return 0.5**self._progress.roll_backs
