"""Trackers: programs that draw the epochs of many runs side by side.

They receive the content of metrics.jsonl and health.jsonl. A tracker that fails is dropped with a
warning, and the training continues.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Protocol, Self

from crossfeed.errors import MissingExtraError
from crossfeed.run import Run
from crossfeed.training.watch.tracking.mlflow import MlflowTracker
from crossfeed.training.watch.tracking.tensorboard import TensorboardTracker

__all__ = ["TRACKERS", "Tracker", "Tracking", "figures", "require_trackers"]

_log = logging.getLogger(__name__)

Json = Mapping[str, Any]  # Any: JSON


class Tracker(Protocol):
    """Takes the figures of a fit."""

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Take the figures of an epoch, counted from 1; a second time they change nothing."""

    def close(self, *, finished: bool) -> None:
        """Record that the fit has ended or was interrupted."""


TRACKERS: Mapping[str, Callable[[Run, str], Tracker]] = {
    "tensorboard": TensorboardTracker,
    "mlflow": MlflowTracker,
}
"""Name in `train.track` -> how one is opened for a run and the stage of a fit."""

_PACKAGES = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}


def require_trackers(names: Iterable[str]) -> None:
    """Refuse trackers with missing packages.

    Raises:
        MissingExtraError: the extra of that name is not installed.
    """
    for name in names:
        for package in _PACKAGES[name]:
            if find_spec(package) is None:
                raise MissingExtraError(package=package, extra=name)


class Tracking:
    """Sends the measurements of a fit to the trackers of `train.track`, while it is open."""

    def __init__(self, run: Run, *, stage: str) -> None:
        self._run, self._stage = run, stage
        self._open: dict[str, Tracker] = {}

    def __enter__(self) -> Self:
        for name in self._run.config.train.track:
            self._guarded(name, partial(self._start, name))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for name, tracker in list(self._open.items()):
            self._guarded(name, partial(tracker.close, finished=kind is None))

    def epoch(self, metrics: Json, health: Json) -> None:
        """Send an epoch, given its lines in metrics.jsonl and health.jsonl."""
        told = dict(figures(metrics, health))
        for name, tracker in list(self._open.items()):
            self._guarded(name, partial(tracker.epoch, metrics["epoch"], told))

    def epochs(self, metrics: Sequence[Json], health: Sequence[Json]) -> None:
        """Send the epochs before a resume, for trackers that do not know them yet."""
        for lines in zip(metrics, health, strict=True):
            self.epoch(*lines)

    def _start(self, name: str) -> None:
        self._open[name] = TRACKERS[name](self._run, self._stage)

    def _guarded(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # any error of a network or file; the training matters more
            self._open.pop(name, None)
            _log.warning(
                "warning: %s stopped tracking (%s: %s); the training continues, and a resumed run "
                "sends the missed epochs",
                name,
                type(error).__name__,
                str(error).partition("\n")[0],
            )


def figures(metrics: Json, health: Json) -> Iterator[tuple[str, float]]:
    """Yield the figures of an epoch by name; `ndcg@10` is `ndcg_at_10`, which all trackers take.

    Args:
        metrics: a line of metrics.jsonl.
        health: a line of health.jsonl; the domains' entropies give their mean and minimum.
    """
    entropies = list(health["entropy"].values())
    if entropies:
        yield "health/entropy_mean", sum(entropies) / len(entropies)
        yield "health/entropy_least", min(entropies)
    yield "health/alarms", len(health["alarms"])
    plain = {key: value for key, value in health.items() if key not in ("epoch", "entropy")}
    yield from _numbers("health", plain)
    yield "epoch_seconds", metrics["seconds"]
    for group in ("losses", "validation"):
        yield from _numbers(group, metrics.get(group, {}))


def _numbers(name: str, value: object) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _numbers(f"{name}/{key.replace('@', '_at_').replace(' ', '_')}", one)
    elif isinstance(value, int | float):
        yield name, float(value)
