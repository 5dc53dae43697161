"""The training of both players: a run is opened or resumed, fitted, and refitted on all data.

`train` runs one or two fits; a `Fit` is the loop over epochs and steps. `selection` decides which
epoch is the best, `saving` writes the files.
"""

from __future__ import annotations

import gc
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import profile, record_function

from crossfeed.config import Config
from crossfeed.data.dataset import Dataset
from crossfeed.errors import require_type
from crossfeed.evaluation.baselines.demand import LearnedDemand
from crossfeed.evaluation.metrics import SELECTED_BY
from crossfeed.evaluation.results import Results
from crossfeed.run import Run, seen
from crossfeed.training.loop.interrupt import Interruptible
from crossfeed.training.loop.progress import LOSS, FitProgress
from crossfeed.training.loop.random_state import forked, random_state, restore_random_state
from crossfeed.training.loop.requirements import (
    expanded_domains,
    open_run,
    require_clicks,
    require_precision,
)
from crossfeed.training.loop.saving import FitFiles
from crossfeed.training.loop.selection import MOST_ROLL_BACKS, Selection
from crossfeed.training.loop.state import FitState
from crossfeed.training.loop.validation import Validation
from crossfeed.training.parallel.distributed import ALONE, Workers, steps_per_epoch
from crossfeed.training.parallel.process_group import joined
from crossfeed.training.step.batches import Batch, batches, prefetched
from crossfeed.training.step.means import Means
from crossfeed.training.step.steps import train_step
from crossfeed.training.watch.alarms import Alarm, find_alarms
from crossfeed.training.watch.display import Display
from crossfeed.training.watch.health import Health, add_health
from crossfeed.training.watch.profile import step_profiler
from crossfeed.training.watch.tracking import Tracking, require_trackers

__all__ = ["SAME_COMMAND", "Fit", "train"]

SAME_COMMAND = "the same command"
"""The command that continues a fit within a larger piece of work."""


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
        ConfigError: an argument is of another type, a domain of `train.expand_domains` is not in
            the dataset, or there are more processes than its clicks allow.
        RunError: the run to be resumed was trained on another dataset or has other settings, or
            `out` is another kind of folder.
        TrainingError: the dataset has no training or no validation click.
        MissingExtraError: a package for `train.track` or `train.table_sharding` is not installed.
        NonFiniteLossError: a loss or its gradient became infinite or not a number.
        WorkerLostError: one of several processes died.
        KeyboardInterrupt: after Ctrl-C, when the state has been saved.
    """
    require_type(dataset, Dataset, "dataset", hint="Dataset.load(path)")
    require_type(config, Config, "config", hint="load_config(...)")
    out = Path(out)
    require_clicks(dataset)
    require_precision(config.train)
    require_trackers(config.train.track)
    with joined() as workers, ExitStack() as held:
        run: Run | None = None
        if workers.leads:
            run = open_run(held, dataset, workers, out, config, resume=resume, overwrite=overwrite)
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
            rates, share = fit.progress.best_rates, fit.progress.best_share
            del fit
            gc.collect()  # its parts refer to each other; their memory is the refit's
            everything = dataset.refitted()
            again = fit_of(everything, stage="refit", epochs=len(rates), selects=False, rates=rates)
            again.state.served.personal_share.fill_(share)
            again.go_on()
    return run


class Fit:
    """One fit of both players to a dataset, saved as it goes."""

    def __init__(
        self,
        run: Run,
        dataset: Dataset,
        workers: Workers = ALONE,
        *,
        stage: str,
        epochs: int,
        selects: bool,
        rates: Sequence[float] = (),
        command: str = SAME_COMMAND,
    ) -> None:
        """Prepare a fit, or continue it from its last checkpoint.

        Args:
            run: the run that keeps it.
            dataset: the data.
            workers: the processes that take part.
            stage: its name in the display.
            epochs: the largest number of epochs.
            selects: whether the best epoch is chosen on validation, or the last one is kept.
            rates: the learning rate of each epoch, as a factor of `train.learning_rate`; 1 for all
                by default.
            command: the command that continues it; shown when it is interrupted.
        """
        self.run, self.dataset, self.config = run, dataset, run.config
        self.workers = workers
        self.stage, self.epochs, self.selects, self.command = stage, epochs, selects, command
        self.rates = rates
        self.progress = FitProgress()
        self.device = workers.device(self.config.train.device)
        self.clicks, self.share = workers.share(dataset, self.config)
        self.steps = (
            self.share.steps if self.share else steps_per_epoch(len(self.clicks), self.config)
        )
        self.after_epoch: Callable[[int, float], None] | None = None
        self.profiler: profile | None = None
        self.expanded = expanded_domains(dataset, self.config)
        with forked(self.device):
            torch.manual_seed(self.config.train.seed)
            self.state = FitState(dataset.catalogue, self.config, device=self.device)
            self.random_state = (
                random_state(self.device) if workers.leads else self._seeded_random_state()
            )
        self.files = FitFiles(run, workers, self.device, selects=selects)
        if restored := self.files.restore(self.state):
            self.progress, kept = restored
            self.random_state = kept or self._seeded_random_state()
        else:
            if self.config.model.demand and workers.leads:
                learned = LearnedDemand(dataset, seed=self.config.train.seed)
                self.state.begin_with_demand(learned.function)
            # Not after a restore: all read the same file, and a row that rests must not catch up
            # earlier than in an uninterrupted fit, which would round differently.
            for players in (self.state.players, self.state.served):
                workers.spread_weights(players)
        self.means = Means(self.progress.sums, self.progress.counts)
        self.selection = Selection(self.progress, self.config.train, epochs=epochs)
        self.validation = Validation(dataset, self.config, workers, self.device)
        self.tracking = Tracking(run, stage=stage)

    def go_on(self) -> None:
        """Train from the present state until the fit is finished."""
        if self.progress.finished:
            return
        self.run.prepare_to_write()
        quiet = not self.workers.leads
        display = Display(epochs=self.epochs, steps=self.steps, stage=self.stage, quiet=quiet)
        with (
            display,
            self.profiler or nullcontext(),
            Interruptible(quiet=quiet) as interruptible,
            forked(self.device),
            self.tracking,
        ):
            if self.dataset.narrowing:
                display.say(f"{self.stage}: {seen(self.dataset.narrowing)}")
            self.tracking.epochs(self.progress.metrics, self.progress.health)
            restore_random_state(self.random_state, self.device)
            while not self.progress.finished:
                self._run_epoch(display, interruptible)
                self._end_epoch(display)
                (asked,) = self.workers.most(interruptible.asked)
                if asked:  # during validation; the epoch is saved
                    interruptible.stop(asked, self.command)

    def _run_epoch(self, display: Display, interruptible: Interruptible) -> None:
        progress = self.progress
        if self.rates:
            rate = self.config.train.learning_rate * self.rates[progress.epoch]
            self.state.set_learning_rate(rate)
        self.state.players.train()
        began = time.perf_counter() - progress.seconds
        waiting = batches(
            self.dataset,
            self.config,
            clicks=self.clicks,
            share=self.share,
            epoch=progress.epoch,
            first_step=progress.step,
            stacked=self.device.type == "cuda",
        )
        for batch in prefetched(waiting):
            self._step(batch.to(self.device))
            progress.step += 1
            if self.profiler and not self._warming_up:
                self.profiler.step()
            progress.seconds = time.perf_counter() - began
            display.pace(epoch=progress.epoch, step=progress.step)
            asked, due, shown = self.workers.most(
                interruptible.asked, self.files.timer.due(), display.due()
            )
            if shown:
                losses = self.workers.means(self.means.means(LOSS))
                display.step(epoch=progress.epoch, step=progress.step, losses=losses)
            if asked or due:
                self._save()
            if asked:
                interruptible.stop(asked, self.command)

    def _step(self, batch: Batch) -> None:
        """Move both players by a batch, and add its losses and health to the epoch's means."""
        result = train_step(
            self.state.players,
            self.state.optimisers,
            batch,
            config=self.config,
            expanded=self.expanded,
            warming_up=self._warming_up,
            workers=self.workers,
        )
        with record_function("losses, health"):
            for term, loss in result.losses.items():
                self.means.add(f"{LOSS}{term}", loss)
            add_health(self.means, batch, result)
        with record_function("average"):
            self.state.average()

    @property
    def _warming_up(self) -> bool:
        return self.progress.epoch < self.config.train.warmup_epochs

    def _end_epoch(self, display: Display) -> None:
        progress = self.progress
        self.workers.require_equal_weights(self.state.players)
        self.means.add_up(self.workers)
        results = self.validation.evaluate(self.state.served) if self.selects else None
        value = self.validation.selected(results) if results else None
        health = Health.of(self.means)
        alarms = self._alarms(health, value)
        share = float(self.state.served.personal_share)
        is_best = self.selection.judge(value, personal_share=share)
        progress.metrics.append(self._epoch_metrics(results))
        progress.health.append(
            {"epoch": progress.epoch + 1, **health.to_json(), "alarms": [vars(a) for a in alarms]}
        )
        display.epoch(epoch=progress.epoch, results=results, seconds=progress.seconds, best=is_best)
        display.health(health, alarms)
        self._begin_next_epoch()
        if is_best and (self.selects or progress.finished):
            self.files.keep_best(self.state)
        if self.selects:
            self._recover(display, collapsed=bool(alarms))
            progress.metrics[-1]["finished"] = progress.finished
            self.files.write_epochs(progress)
        self.tracking.epoch(progress.metrics[-1], progress.health[-1])
        self._save()
        if self.after_epoch:
            self.after_epoch(progress.epoch - 1, progress.best if value is None else value)

    def _begin_next_epoch(self) -> None:
        self.progress.epoch, self.progress.step = self.progress.epoch + 1, 0
        self.progress.seconds = 0.0
        self.means.clear()

    def _alarms(self, health: Health, value: float | None) -> tuple[Alarm, ...]:
        """Return the signs of collapse in the epoch that ends; there are none in warm-up."""
        progress = self.progress
        if value is None or self._warming_up:
            return ()
        if progress.floor is None:
            progress.floor = self.validation.popularity()
        return find_alarms(
            health,
            metric=f"micro {SELECTED_BY}",
            value=value,
            best=progress.best,
            floor=progress.floor,
        )

    def _recover(self, display: Display, *, collapsed: bool) -> None:
        """Keep a healthy epoch; after a collapse go back to the last one, if that is set."""
        has_healthy = self.files.has_healthy
        recovery = self.selection.recover(collapsed=collapsed, has_healthy=has_healthy)
        if recovery == "keep":
            self.files.keep_healthy(self.state)
        elif recovery == "stop":
            display.say(f"collapsed again after {MOST_ROLL_BACKS} roll-backs: stopped")
        elif recovery == "roll back":
            rate = self.config.train.learning_rate * self.selection.rate
            self.files.restore_healthy(self.state)
            self.state.set_learning_rate(rate)
            display.say(f"rolled back to the last healthy epoch; learning rate now {rate:g}")

    def _epoch_metrics(self, results: Results | None) -> dict[str, Any]:  # Any: JSON
        line: dict[str, Any] = {
            "epoch": self.progress.epoch + 1,
            "seconds": round(self.progress.seconds, 3),
            "losses": self.means.means(LOSS),
        }
        if results:
            line["personal_share"] = float(self.state.served.personal_share)
            line["validation"] = {"micro": results.micro, "macro": results.macro}
        return line

    def _save(self) -> None:
        self.means.settle()
        self.files.save(self.state, self.progress)

    def _seeded_random_state(self) -> dict[str, Tensor]:
        """Return the random state that follows from the seed, this process and the progress."""
        position = (self.progress.epoch, self.progress.step)
        with forked(self.device):
            torch.manual_seed(self.workers.seed(self.config.train.seed, *position))
            return random_state(self.device)
