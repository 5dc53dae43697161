"""What must be so before a training begins, because it would fail after the first epoch."""

from __future__ import annotations

from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import TrainingError

__all__ = ["require_clicks"]


def require_clicks(dataset: Dataset) -> None:
    """Refuse a dataset that has nothing to learn from, or nothing to choose an epoch by.

    A domain without training or validation clicks is no reason: it is served, and not judged.

    Raises:
        TrainingError: the training or the validation part is empty.
    """
    if not len(dataset.events(Part.TRAIN)):
        raise TrainingError(
            f"the training part of '{dataset.path}' has no click",
            hint="prepare it from a longer log, or with another data.split",
        )
    if not len(dataset.events(Part.VALIDATION)):
        raise TrainingError(
            f"the validation part of '{dataset.path}' has no click, and the best epoch is chosen "
            "by it",
            hint="prepare it from a longer log, or with another data.split",
        )
