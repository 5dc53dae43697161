"""What must be so before a training begins, because it would fail after the first epoch."""

from __future__ import annotations

import torch

from crossfeed.config import TrainConfig
from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import ConfigError, TrainingError

__all__ = ["require_clicks", "require_precision"]


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


def require_precision(config: TrainConfig) -> None:
    """Refuse `train.precision` where the GPU cannot do it; every processor can, if slowly.

    Raises:
        ConfigError: it is bfloat16, and the GPU is too old for it.
    """
    if config.precision == "float32" or config.device == "cpu" or not torch.cuda.is_available():
        return
    if not torch.cuda.is_bf16_supported():
        raise ConfigError(
            f"train.precision = 'bfloat16', but the GPU '{torch.cuda.get_device_name()}' has no "
            "instructions for it",
            hint="leave it at 'float32', or set train.device = 'cpu'",
        )
