"""What a run holds, to be compared with what another one holds."""

from __future__ import annotations

import torch

from crossfeed.run import Run


def state_of(run: Run) -> dict[str, object]:
    """Return all that a run holds, but for times."""
    checkpoints = {
        name: run.read_checkpoint(name)  # type: ignore[arg-type]
        for name in ("last", "best", "healthy", "refit-last", "refit")
        if run.has_checkpoint(name)  # type: ignore[arg-type]
    }
    kept = {"checkpoints": checkpoints, "metrics": run.metrics(), "health": run.health()}
    return without_times(kept)  # type: ignore[return-value]


def without_times(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key != "seconds"}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def assert_equal(one: object, other: object, where: str = "") -> None:
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where  # type: ignore[arg-type]
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where  # type: ignore[attr-defined]
        for key, value in one.items():
            assert_equal(value, other[key], f"{where}/{key}")  # type: ignore[index]
    elif isinstance(one, list):
        assert len(one) == len(other), where  # type: ignore[arg-type]
        for place, (first, second) in enumerate(zip(one, other, strict=True)):  # type: ignore[call-overload]
            assert_equal(first, second, f"{where}/{place}")
    else:
        assert one == other, where
