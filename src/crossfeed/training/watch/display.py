"""The display of a training: a bar per epoch with losses and remaining time, on stderr."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from crossfeed.evaluation.results import Results
from crossfeed.training.watch.alarms import Alarm
from crossfeed.training.watch.health import Health

__all__ = ["Display"]


_SECONDS_BETWEEN = 0.1
"""Seconds between two steps that are shown; losses are fetched from the device for it."""
_WARM, _TIMED = 5, 25
"""Steps before the pace is measured, because the first ones are slow, and when it is known."""
_WORTH_SAYING = 20.0
"""Remaining seconds that are announced."""


class Display:
    """Shows progress while it is open; without a bar if stderr is not a terminal."""

    def __init__(
        self,
        *,
        epochs: int,
        steps: int,
        stage: str,
        quiet: bool = False,
        console: Console | None = None,
    ) -> None:
        """Prepare to show a fit.

        Args:
            epochs: the largest number of epochs.
            steps: of each epoch.
            stage: the name of the fit.
            quiet: whether to show nothing.
            console: the console to print on; stderr by default.
        """
        self._console = console or Console(stderr=True, quiet=quiet, markup=False, emoji=False)
        self._epochs, self._steps, self._stage = epochs, steps, stage
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=20),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            TextColumn(
                "{task.fields[losses]}",
                table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
            ),  # in the remaining width
            console=self._console,
            disable=quiet or not self._console.is_terminal,
            expand=True,
        )
        self._shown = float("-inf")
        self._taken, self._since = 0, 0.0
        self._task = self._progress.add_task(stage, total=epochs * steps, losses="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def due(self) -> bool:
        """Return whether a step should be shown: only with a bar, and not too often."""
        if self._progress.disable or time.monotonic() - self._shown < _SECONDS_BETWEEN:
            return False
        self._shown = time.monotonic()
        return True

    def pace(self, *, epoch: int, step: int) -> None:
        """Count a finished step; after the first ones announce the remaining time."""
        self._taken += 1
        if self._taken == _WARM:
            self._since = time.monotonic()
        if self._taken != _TIMED:
            return
        each = (time.monotonic() - self._since) / (_TIMED - _WARM)
        seconds = each * (self._epochs * self._steps - epoch * self._steps - step)
        if seconds >= _WORTH_SAYING:
            left = self._epochs - epoch
            self.say(f"{self._stage}: about {_duration(seconds)} if it takes {_epochs(left)}")

    def step(self, *, epoch: int, step: int, losses: dict[str, float]) -> None:
        """Show one finished step and the epoch's mean losses so far."""
        text = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
        self._progress.update(
            self._task,
            completed=epoch * self._steps + step,
            description=f"{self._stage} epoch {epoch + 1}/{self._epochs}",
            losses=text,
        )

    def epoch(self, *, epoch: int, results: Results | None, seconds: float, best: bool) -> None:
        """Show one finished epoch and its validation."""
        line = f"{self._stage} epoch {epoch + 1:>3}/{self._epochs}  {seconds:.1f} s"
        if results is not None:
            micro, macro = results.micro["ndcg@10"], results.macro["ndcg@10"]
            line += f"  validation ndcg@10 micro {micro:.4f} macro {macro:.4f}"
        self.say(line + ("  best so far" if best else ""))

    def health(self, health: Health, alarms: Sequence[Alarm]) -> None:
        """Show the health of both players in an epoch, and every sign of collapse."""
        entropies = health.entropy.values()
        told = {
            "separation": health.separation,
            "entropy": sum(entropies) / len(entropies) if entropies else None,
            "distinct candidates": health.distinct_share,
            "reward": health.reward_mean,
            "gap": health.gap,
        }
        text = "  ".join(f"{name} {value:.3f}" for name, value in told.items() if value is not None)
        self.say(f"  health: {text}")
        for alarm in alarms:
            self.say(f"  alarm ({alarm.name}): {alarm.cause}")
            self.say(f"  hint: {alarm.advice}")

    def say(self, line: str) -> None:
        """Show one line."""
        self._console.print(line, highlight=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    """Return a time in words: 40 s, 9 min, 2 h 10 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _epochs(count: int) -> str:
    return f"all {count} epochs" if count > 1 else "1 epoch"
