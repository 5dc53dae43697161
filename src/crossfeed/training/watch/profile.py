"""Where a training's time goes: by stage over all of it, by operator over a few dozen steps."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.autograd.profiler_util import EventList
from torch.profiler import ProfilerActivity, profile

from crossfeed.errors import RunError
from crossfeed.files import atomic_path, write_json
from crossfeed.training.stages import StageClock, clocked

__all__ = ["Operator", "Profile", "ProfileReport", "StageTime", "read_profile"]

FORMAT_VERSION = 1

_FIRST_STEP = 10
"""Steps before those that are recorded, because the first ones warm up."""
_TRACED, _STEPS = 3, 24
"""Steps of the trace, which takes megabytes for each, and steps whose operators are summed."""
_OPERATORS = 20
"""Operators that profile.json names; profile-operators.txt has them all."""


@dataclass(frozen=True)
class StageTime:
    """The wall time of one stage, without that of stages inside it."""

    stage: str
    seconds: float
    share: float
    """Of the whole time, in [0, 1]."""
    times: int
    """How often it was entered."""


@dataclass(frozen=True)
class Operator:
    """The time of one of torch's operators, without that of operators that it calls."""

    operator: str
    calls: int
    seconds: float
    share: float
    """Of all operators' time, in [0, 1]."""


@dataclass(frozen=True)
class ProfileReport:
    """What profile.json holds, besides its format version."""

    device: str
    threads: int
    """torch's threads within an operator."""
    steps: int
    clicks: int
    """Training clicks of these steps."""
    seconds: float
    """Wall time of these steps, and of what happened between them."""
    stages: tuple[StageTime, ...]
    """By time, "other" last: display, counting, and the loop itself."""
    operator_steps: int
    """Steps whose operators were summed; they are not in the figures above."""
    operators: tuple[Operator, ...]
    """The first by time."""


class Profile:
    """Measures the steps of a training while it is open, and writes into its run at the end.

    profile.json            stages and the first operators
    profile-operators.txt   all operators
    profile-trace.json      the recorded steps, for chrome://tracing or ui.perfetto.dev
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else it prints when it starts and stops
        self._path, self._device = path, device
        self._clock = StageClock(device)
        self._steps = self._clicks = self._recorded = 0
        self._began = self._away = 0.0
        self._recorder: profile | None = None
        self._operators: tuple[Operator, ...] = ()

    @contextmanager
    def running(self) -> Iterator[Profile]:
        """Measure what happens inside."""
        self._began = time.perf_counter()
        with clocked(self._clock):
            try:
                yield self
            finally:
                self.pause()
                if self._steps:
                    self._write()

    def step(self, clicks: int, *, typical: bool) -> None:
        """Take note of a finished step.

        Args:
            clicks: of the step's batch.
            typical: whether its operators may stand for the training's: no warm-up.
        """
        if self._recorder is not None:
            self._recorded += 1
            if self._recorded == _TRACED:
                self._keep_trace()
            elif self._recorded == _TRACED + _STEPS:
                self.pause()
            return
        self._steps, self._clicks = self._steps + 1, self._clicks + clicks
        if typical and self._steps >= _FIRST_STEP and not self._recorded:
            self._away, self._clock.counting = time.perf_counter(), False
            self._recorder = self._recording()

    def pause(self) -> None:
        """End the recording, where one goes on: no step follows this one."""
        if self._recorder is None:
            return
        if self._recorded < _TRACED:
            self._keep_trace()
        self._recorder.stop()
        self._keep_operators(self._recorder)
        self._recorder = None
        self._began += time.perf_counter() - self._away
        self._clock.counting = True

    def _recording(self) -> profile:
        activities = [ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        recorder = profile(activities=activities, acc_events=True)
        recorder.start()
        return recorder

    def _keep_trace(self) -> None:
        """Write what was recorded as a trace, and go on with the operators."""
        assert self._recorder is not None
        self._recorder.stop()
        with atomic_path(self._path / "profile-trace.json") as temporary:
            self._recorder.export_chrome_trace(str(temporary))
        self._recorder = self._recording()

    def _keep_operators(self, recorder: profile) -> None:
        averages = recorder.key_averages()
        name = "self_device_time_total" if self._device.type == "cuda" else "self_cpu_time_total"
        self._operators = _read_operators(averages, name)
        with atomic_path(self._path / "profile-operators.txt") as temporary:
            temporary.write_text(averages.table(sort_by=name, row_limit=-1), "utf-8")

    def _write(self) -> None:
        write_json(
            self._path / "profile.json",
            {"format_version": FORMAT_VERSION, **asdict(self.report())},
        )

    def report(self) -> ProfileReport:
        """Return what was measured."""
        seconds = time.perf_counter() - self._began
        spent = sorted(self._clock.seconds.items(), key=lambda one: -one[1])
        spent.append(("other", max(0.0, seconds - sum(self._clock.seconds.values()))))
        return ProfileReport(
            device=str(self._device),
            threads=torch.get_num_threads(),
            steps=self._steps,
            clicks=self._clicks,
            seconds=seconds,
            stages=tuple(
                StageTime(name, own, own / seconds, self._clock.times.get(name, self._steps))
                for name, own in spent
            ),
            operator_steps=max(0, self._recorded - _TRACED),
            operators=self._operators[:_OPERATORS],
        )


def read_profile(path: Path) -> ProfileReport | None:
    """Return the profile of a run's last training with one; None where there was none.

    Raises:
        RunError: profile.json cannot be read.
    """
    file = path / "profile.json"
    if not file.exists():
        return None
    try:
        kept = json.loads(file.read_text("utf-8"))
        if kept.pop("format_version") != FORMAT_VERSION:
            raise ValueError
        stages = tuple(StageTime(**one) for one in kept.pop("stages"))
        operators = tuple(Operator(**one) for one in kept.pop("operators"))
        return ProfileReport(**kept, stages=stages, operators=operators)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RunError(
            f"the profile '{file}' cannot be read", hint="make it again with: train --profile"
        ) from None


def _read_operators(averages: EventList, name: str) -> tuple[Operator, ...]:
    """Return the operators by the time that an attribute of torch's names, in microseconds."""
    spent = {one.key: (one.count, getattr(one, name) / 1e6) for one in averages}
    total = sum(seconds for _, seconds in spent.values()) or 1.0
    return tuple(
        Operator(key, calls, seconds, seconds / total)
        for key, (calls, seconds) in sorted(spent.items(), key=lambda one: -one[1][1])
        if seconds
    )
