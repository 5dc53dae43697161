"""The files of a fit: its checkpoints, when they are written, and the lines of its epochs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from crossfeed.run import CheckpointName, Run
from crossfeed.training.loop.progress import SUMS, FitProgress
from crossfeed.training.loop.random_state import random_state
from crossfeed.training.loop.state import FitState
from crossfeed.training.parallel.distributed import Workers, own_state

__all__ = ["CheckpointTimer", "FitFiles"]

_LEAST_WORK = 20
"""Time between two checkpoints, in multiples of the time that one takes: at most a twentieth of a
training is spent on them, however large the tables and slow the disk."""


class CheckpointTimer:
    """Says within an epoch when the next checkpoint is due."""

    def __init__(self, *, minutes: float) -> None:
        self._seconds = minutes * 60
        self._written, self._took = time.monotonic(), 0.0

    def due(self) -> bool:
        """Return whether enough time has passed since the last checkpoint."""
        waits = max(self._seconds, _LEAST_WORK * self._took)
        return self._seconds > 0 and time.monotonic() - self._written >= waits

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Record when a checkpoint is written, and how long it takes."""
        began = time.monotonic()
        yield
        self._written = time.monotonic()
        self._took = self._written - began


class FitFiles:
    """The files of one fit in its run; only the first process writes."""

    def __init__(self, run: Run, workers: Workers, device: torch.device, *, selects: bool) -> None:
        """Name the checkpoints of a fit.

        Args:
            run: the run that keeps them.
            workers: the processes that take part.
            device: the device of the weights.
            selects: whether it is a training that is validated, or a refit.
        """
        self._run, self._workers, self._device = run, workers, device
        self._last: CheckpointName = "last" if selects else "refit-last"
        self._best: CheckpointName = "best" if selects else "refit"
        self.timer = CheckpointTimer(minutes=run.config.train.checkpoint_minutes)

    def restore(self, state: FitState) -> tuple[FitProgress, dict[str, Tensor] | None] | None:
        """Restore the last checkpoint, and return the progress and the random state.

        Return None without a checkpoint. With another number of processes than before, there is no
        random state.
        """
        if not self._run.has_checkpoint(self._last):
            return None
        checkpoint = self._run.read_checkpoint(self._last)
        state.restore(checkpoint)
        progress = FitProgress(**checkpoint["progress"])
        first = {"random_state": checkpoint["random_state"], **_sums(progress)}
        own = own_state([first, *checkpoint["others"]], self._workers)
        for name in SUMS:
            setattr(progress, name, own[name])
        return progress, own["random_state"]

    def save(self, state: FitState, progress: FitProgress) -> None:
        """Write all that a resume needs."""
        with self.timer.writing(), record_function("checkpoint"):
            own = {"random_state": random_state(self._device), **_sums(progress)}
            self._run.write_checkpoint(
                self._last,
                {
                    **state.to_checkpoint(),
                    "random_state": own["random_state"],
                    "progress": vars(progress),
                    "others": self._workers.gather(own)[1:],  # see own_state
                },
            )
            self._workers.wait()  # nobody leaves, or reads the run, before it is written

    def keep_best(self, state: FitState) -> None:
        """Write the weights that are served."""
        with record_function("checkpoint"):
            self._run.write_checkpoint(self._best, {"players": state.served.state_dict()})

    @property
    def has_healthy(self) -> bool:
        """Return whether the weights of a healthy epoch have been kept."""
        return self._run.has_checkpoint("healthy")

    def keep_healthy(self, state: FitState) -> None:
        """Write the state after a healthy epoch, to go back to."""
        self._run.write_checkpoint("healthy", state.to_checkpoint())

    def restore_healthy(self, state: FitState) -> None:
        """Go back to the last healthy epoch."""
        state.restore(self._run.read_checkpoint("healthy"))

    def write_epochs(self, progress: FitProgress) -> None:
        """Write metrics.jsonl and health.jsonl."""
        self._run.write_metrics(progress.metrics)
        self._run.write_health(progress.health)


def _sums(progress: FitProgress) -> dict[str, Any]:  # Any: see run.Checkpoint
    return {name: getattr(progress, name) for name in SUMS}
