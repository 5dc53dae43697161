"""Checks before a training begins, for problems that would make it fail later; opening its run."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from crossfeed.config import Config, TrainConfig
from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import ConfigError, TrainingError
from crossfeed.run import Run, may_begin, only_training, require_place
from crossfeed.training.parallel.distributed import Workers
from crossfeed.training.parallel.sharded_table import require_row_sharding
from crossfeed.training.step.batches import no_item_exists

__all__ = ["expanded_domains", "open_run", "require_clicks", "require_precision"]


def require_clicks(dataset: Dataset) -> None:
    """Refuse a dataset that has nothing to learn from, or nothing to choose an epoch by.

    A single domain without training or validation clicks is allowed: it is served, and not judged.

    Raises:
        TrainingError: the training or the validation part is empty, or no item of a click was
            clicked before.
    """
    if not len(dataset.events(Part.TRAIN)):
        raise TrainingError(
            f"the training part of '{dataset.path}' has no click",
            hint="prepare it from a longer log, or with another data.split",
        )
    validation = dataset.events(Part.VALIDATION)
    if not len(validation):
        raise TrainingError(
            f"the validation part of '{dataset.path}' has no click, and the best epoch is chosen "
            "by it",
            hint="prepare it from a longer log, or with another data.split",
        )
    for part, name in ((Part.TRAIN, "training"), (Part.VALIDATION, "validation")):
        if not _any_item_exists(dataset, part):
            raise no_item_exists(dataset, name)


def _any_item_exists(dataset: Dataset, part: Part) -> bool:
    """Return whether the item of any click of a part was clicked before."""
    events = dataset.learned_events if part is Part.TRAIN else dataset.events(part)
    for domain in np.unique(dataset.event_domain[events]).tolist():
        own = events[dataset.event_domain[events] == domain]
        history = dataset.demand_history(domain, part)
        places = dataset.event_item[own] - dataset.catalogue.pool(domain).start
        if history.clicks(places.astype(np.int64), history.before(dataset.event_time[own])).any():
            return True
    return False


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


def open_run(
    held: ExitStack,
    dataset: Dataset,
    workers: Workers,
    out: Path,
    config: Config,
    *,
    resume: bool,
    overwrite: bool,
) -> Run:
    """Open the run to be resumed, or make a new one, after the checks.

    Args:
        held: no other process trains there until it is closed.
        dataset: the data.
        workers: the processes that take part.
        out: folder of the run.
        config: settings, see `train`.
        resume: continue the run in `out`.
        overwrite: replace an existing run.

    Raises:
        OutputError: `out` may not be replaced, or another process trains there.
        RunError: the run to be resumed has another dataset or other settings.
        ConfigError: a setting does not fit the dataset, the processes or the machine.
    """
    if resume and not may_begin(out):
        run = Run.open(out)
        resumed = run.resumed(config)
        run.require_dataset(dataset)
        _require(dataset, workers, resumed.config)
        held.enter_context(only_training(out))
        return run.relocated(dataset).resumed(config)
    _require(dataset, workers, config)
    require_place(out, dataset=dataset, overwrite=overwrite)
    held.enter_context(only_training(out))
    return Run.create(out, dataset=dataset, config=config, overwrite=overwrite)


def _require(dataset: Dataset, workers: Workers, config: Config) -> None:
    """Refuse settings that would fail when the training begins."""
    workers.device(config.train.device)
    workers.share(dataset, config)
    expanded_domains(dataset, config)
    if config.train.table_sharding == "row":
        require_row_sharding(workers.count)
