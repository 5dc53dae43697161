"""Wall time of a training by stage: with stage("draws"): ...

Without a clock, which is how all trainings but those of `--profile` run, a stage is an empty
context and takes about as long as a function call.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch

__all__ = ["StageClock", "clocked", "stage", "staged"]

_Thing = TypeVar("_Thing")


class StageClock:
    """Sums the time of each stage, without that of the stages inside it."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self.times: dict[str, int] = {}
        self.counting = True
        """Whether what passes is counted; steps under a slower instrument should not be."""
        self._device = device
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what passes inside as this stage's."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()
            if self.counting:
                self.times[name] = self.times.get(name, 0) + 1

    def _charge(self) -> None:
        """Give the time since the last change to the innermost open stage."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # kernels belong to the stage that asked for them
        now = time.perf_counter()
        if self._open and self.counting:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


_clock: StageClock | None = None
_no_stage: AbstractContextManager[None] = nullcontext()


def stage(name: str) -> AbstractContextManager[None]:
    """Return a context whose time counts as this stage's, where a clock runs."""
    return _no_stage if _clock is None else _clock.stage(name)


def staged(name: str, things: Iterable[_Thing]) -> Iterator[_Thing]:
    """Yield what an iterable yields; the time that it takes to do so counts as this stage's."""
    iterator = iter(things)
    while True:
        with stage(name):
            thing = next(iterator, _end)
        if thing is _end:
            return
        yield thing  # type: ignore[misc] # it is no end


_end = object()


@contextmanager
def clocked(clock: StageClock) -> Iterator[None]:
    """Let a clock run: from here on stages are counted."""
    global _clock
    previous, _clock = _clock, clock
    try:
        yield
    finally:
        _clock = previous
