"""Checks before a training begins, for problems that would make it fail later."""

from __future__ import annotations

import torch

from crossfeed.config import Config, TrainConfig
from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import ConfigError, TrainingError

__all__ = ["expanded_domains", "require_clicks", "require_precision"]


def require_clicks(dataset: Dataset) -> None:
    """Refuse a dataset that has nothing to learn from, or nothing to choose an epoch by.

    A single domain without training or validation clicks is allowed: it is served, and not judged.

    Raises:
        TrainingError: the training or the validation part is empty, or all items of the latter are
            unknown to training.
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
    events = dataset.events(Part.VALIDATION)
    items, domains = dataset.event_item[events], dataset.event_domain[events]
    ends = dataset.catalogue.offsets[domains] + dataset.catalogue.known[domains]
    if not ((items >= 0) & (items < ends)).any():
        raise TrainingError(
            f"all validation clicks of '{dataset.path}' are on items that training never saw, so "
            "that each epoch would have the figure 0",
            hint="prepare it with data.split = 'last-out', or cut where items are known already",
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


def expanded_domains(dataset: Dataset, config: Config) -> list[bool]:
    """Return by domain whether the generator expands it.

    Raises:
        ConfigError: `train.expand_domains` names a domain that the dataset does not have.
    """
    names = dataset.catalogue.domains
    wanted = config.train.expand_domains
    unknown = [name for name in wanted or () if name not in names]
    if unknown:
        raise ConfigError(
            f"train.expand_domains names the unknown domain '{unknown[0]}'; "
            f"the dataset has: {', '.join(names)}"
        )
    return [wanted is None or name in wanted for name in names]
