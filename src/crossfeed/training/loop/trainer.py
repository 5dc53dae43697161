"""The training of both players: a run is opened or resumed, fitted, and refitted on all data."""

from __future__ import annotations

import gc
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from crossfeed.config import Config
from crossfeed.data.dataset import Dataset
from crossfeed.run import Run, may_begin, only_training, require_place
from crossfeed.training.loop.fit import Fit
from crossfeed.training.loop.requirements import (
    expanded_domains,
    require_clicks,
    require_precision,
)
from crossfeed.training.parallel.distributed import Workers
from crossfeed.training.parallel.process_group import joined
from crossfeed.training.parallel.sharded_table import require_row_sharding
from crossfeed.training.watch.profile import step_profiler
from crossfeed.training.watch.tracking import require_trackers

__all__ = ["train"]


def train(
    dataset: Dataset,
    *,
    out: Path | str,
    config: Config = Config(),
    resume: bool = False,
    refit: bool = False,
    overwrite: bool = False,
    after_epoch: Callable[[int, float], None] | None = None,
    profile: bool = False,
    command: str | None = None,
) -> Run:
    """Train both players and keep the epoch that is best on validation.

    Under torchrun all its processes train together (docs/distributed.md).

    Args:
        dataset: prepared data; its validation part selects, its test part is never touched.
        out: folder of the run.
        config: settings. A resumed run keeps its own; settings given here must be the same, except
            those that say where it runs (`crossfeed.config.differences.RUNNING`).
        resume: start or continue the run in `out`; a finished run stays unchanged.
        refit: afterwards train again on all data, validation and test included, with the epochs and
            learning rates of the best weights; these weights are for export, never for evaluation.
        overwrite: replace an existing run.
        after_epoch: called when an epoch has been validated and saved, with its index and the
            validation figure (`SELECTED_BY`); an exception in it ends the training.
        profile: write torch's profile of some steps into the run (`step_profiler`); a refit is not
            profiled.
        command: the command that continues it, shown when it is interrupted; by default
            `crossfeed train` with --resume.

    Raises:
        OutputError: `out` exists and neither `resume` nor `overwrite` is set, or another process
            trains there.
        ConfigError: a domain of `train.expand_domains` is not in the dataset, or there are more
            processes than its clicks allow.
        RunError: the run to be resumed was trained on another dataset or has other settings, or
            `out` is another kind of folder.
        TrainingError: the dataset has no training or no validation click.
        MissingExtraError: a package for `train.track` or `train.table_sharding` is not installed.
        NonFiniteLossError: a loss or its gradient became infinite or not a number.
        WorkerLostError: one of several processes died.
        KeyboardInterrupt: after Ctrl-C, when the state has been saved.
    """
    out = Path(out)
    require_clicks(dataset)
    require_precision(config.train)
    require_trackers(config.train.track)
    with joined() as workers, ExitStack() as held:
        run: Run | None = None
        if workers.leads:
            run = _open(held, dataset, workers, out, config, resume=resume, overwrite=overwrite)
        run = workers.leaders_run(run)
        if command is None:
            words = ["train", str(dataset.path), "--out", str(out), "--resume"]
            words += ["--refit"] * refit + ["--profile"] * profile
            command = f"{workers.program} {shlex.join(words)}"
        fit_of = partial(Fit, run, workers=workers, command=command)
        epochs = run.config.train.epochs
        fit = fit_of(dataset, stage="train", epochs=epochs, selects=True)
        fit.after_epoch = after_epoch
        if profile and workers.leads and not fit.progress.finished:
            fit.profiler = step_profiler(run.path, fit.device)
        fit.go_on()
        if refit:
            rates = fit.progress.best_rates
            del fit
            gc.collect()  # its parts refer to each other; their memory is the refit's
            everything = dataset.refitted()
            fit_of(everything, stage="refit", epochs=len(rates), selects=False, rates=rates).go_on()
    return run


def _open(
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

    No other process trains there until `held` is closed.
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
