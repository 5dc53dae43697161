"""The time of a step by parts: torch's own profiler over a few steps after the warm-up epochs."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from crossfeed.files import atomic_path

__all__ = ["OPERATORS", "TRACE", "step_profiler"]

OPERATORS, TRACE = "profile-operators.txt", "profile-trace.json"

_SKIPPED, _WARMUP, _RECORDED = 8, 2, 5
"""Steps: before the profiler begins, while it warms up, and in the table and the trace, which takes
megabytes for each."""


def step_profiler(path: Path, device: torch.device) -> profile:
    """Return a profiler that counts steps by `step()`, and writes into a run.

    profile-operators.txt   parts of a step and torch's operators, by their own time
    profile-trace.json      the same steps on a time line, for ui.perfetto.dev

    A training of fewer steps than it skips is not recorded.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else it prints when it starts and stops
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    return profile(
        activities=activities,
        schedule=schedule(skip_first=_SKIPPED, wait=0, warmup=_WARMUP, active=_RECORDED, repeat=1),
        on_trace_ready=partial(_write, path, device),
        acc_events=True,
    )


def _write(path: Path, device: torch.device, recorded: profile) -> None:
    with atomic_path(path / TRACE) as temporary:
        recorded.export_chrome_trace(str(temporary))
    order = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    table = recorded.key_averages().table(sort_by=order, row_limit=-1)
    with atomic_path(path / OPERATORS) as temporary:
        temporary.write_text(table, "utf-8")
