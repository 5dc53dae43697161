"""One fit of both players: epochs, their steps, validation, and what is kept of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from crossfeed.config import Config
from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import ConfigError
from crossfeed.evaluation.baselines import Popularity
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.evaluation.results import Results
from crossfeed.model.network_scorer import NetworkScorer
from crossfeed.run import CheckpointName, Run, seen
from crossfeed.scorer import Scorer
from crossfeed.training.loop.interrupt import Interruptible
from crossfeed.training.loop.progress import SUMS, FitProgress
from crossfeed.training.loop.random_state import forked, random_state, restore_random_state
from crossfeed.training.loop.saving import Saving
from crossfeed.training.loop.state import FitState
from crossfeed.training.parallel.distributed import ALONE, Workers, own_of, steps_per_epoch
from crossfeed.training.stages import stage, staged
from crossfeed.training.step.batches import Batch, batches, prefetched
from crossfeed.training.step.means import Means
from crossfeed.training.step.proposals import StaticProposals
from crossfeed.training.step.steps import train_step
from crossfeed.training.watch.alarms import Alarm, find_alarms
from crossfeed.training.watch.display import Display
from crossfeed.training.watch.health import Health, add_health
from crossfeed.training.watch.profile import Profile
from crossfeed.training.watch.tracking import Tracking

__all__ = ["SAME_COMMAND", "Fit", "expanded_domains"]

SAME_COMMAND = "the same command"
"""What goes on with a fit that a larger piece of work began."""

LOSS = "loss "
"""What the names of losses begin with among the means of an epoch."""
MOST_ROLL_BACKS = 3
"""Roll-backs after which a training that collapses again is stopped."""


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
        command: str = SAME_COMMAND,
    ) -> None:
        """Prepare a fit, or take it up where its last checkpoint left it.

        Args:
            run: where it is saved.
            dataset: what is fitted.
            workers: the processes that take part.
            stage: what the display calls it.
            epochs: how many there are at most.
            selects: whether the best epoch is chosen on validation, or the last one is kept.
            command: what goes on with it, which is shown when it is interrupted.
        """
        self.run, self.dataset, self.config = run, dataset, run.config
        self.workers = workers
        self.stage, self.epochs, self.selects, self.command = stage, epochs, selects, command
        self.last: CheckpointName = "last" if selects else "refit-last"
        self.best: CheckpointName = "best" if selects else "refit"
        self.progress = FitProgress()
        self.device = workers.device(self.config.train.device)
        self.clicks, self.share = workers.share(dataset, self.config)
        self.steps = (
            self.share.steps if self.share else steps_per_epoch(len(self.clicks), self.config)
        )
        self.after_epoch: Callable[[int, float], None] | None = None
        self.profile: Profile | None = None
        self.expanded = expanded_domains(dataset, self.config)
        self.static = StaticProposals(dataset, self.config.train).to(self.device)
        with forked(self.device):
            torch.manual_seed(self.config.train.seed)
            self.state = FitState(
                dataset.catalogue, self.config, device=self.device, span=dataset.training_span
            )
            self.random_state = (
                random_state(self.device) if workers.leads else self._random_state_anew()
            )
        for players in (self.state.players, self.state.served):
            workers.spread_weights(players)
        if run.has_checkpoint(self.last):
            self._restore(run.read_checkpoint(self.last))
        self.means = Means(self.progress.sums, self.progress.counts)
        self.tracking = Tracking(run, stage=stage)
        self.saving = Saving(minutes=self.config.train.checkpoint_minutes, write=self._save)

    def go_on(self) -> None:
        """Train from where the fit stands until it is finished."""
        if self.progress.finished:
            return
        self.run.prepare_to_write()
        quiet = not self.workers.leads
        display = Display(epochs=self.epochs, steps=self.steps, stage=self.stage, quiet=quiet)
        measured = self.profile.running() if self.profile else nullcontext()
        with (
            display,
            measured,
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
                if asked:  # while it was validated; the epoch is saved
                    interruptible.stop(asked, self.command)

    def _run_epoch(self, display: Display, interruptible: Interruptible) -> None:
        progress = self.progress
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
        for batch in staged("batch assembly", prefetched(waiting)):
            self._step(batch.to(self.device))
            progress.step += 1
            if self.profile:
                self.profile.step(batch.rows, typical=not self._warming_up)
            progress.seconds = time.perf_counter() - began
            asked, due, shown = self.workers.most(
                interruptible.asked, self.saving.due(), display.due()
            )
            if shown:
                losses = self.workers.means(self.means.means(LOSS))
                display.step(epoch=progress.epoch, step=progress.step, losses=losses)
            if asked or due:
                self.saving.save()
            if asked:
                interruptible.stop(asked, self.command)

    def _step(self, batch: Batch) -> None:
        """Move both players by a batch, and take its losses and health into the epoch's means."""
        result = train_step(
            self.state.players,
            self.state.optimisers,
            batch,
            config=self.config,
            static=self.static,
            expanded=self.expanded,
            warming_up=self._warming_up,
            workers=self.workers,
        )
        with record_function("losses, health"):
            for term, loss in result.losses.items():
                self.means.add(f"{LOSS}{term}", loss)
            add_health(self.means, batch, result, config=self.config.train)
        with record_function("average"):
            self.state.average()

    @property
    def _warming_up(self) -> bool:
        return self.progress.epoch < self.config.train.warmup_epochs

    def _end_epoch(self, display: Display) -> None:
        progress = self.progress
        if self.profile:
            self.profile.pause()
        self.workers.require_equal_weights(self.state.players)
        self.means.add_up(self.workers)
        results = self._validate() if self.selects else None
        value = _selected(results, self.config) if results else float("inf")
        value = self.workers.from_leader(value)  # rounding on another machine decides nothing
        is_best = value > progress.best or not self.selects
        if is_best:
            progress.best, progress.best_epoch = value, progress.epoch
        health = Health.of(self.means)
        alarms = self._alarms(health, value) if results else ()
        progress.metrics.append(self._epoch_metrics(results))
        progress.health.append(
            {"epoch": progress.epoch + 1, **health.to_json(), "alarms": [vars(a) for a in alarms]}
        )
        display.epoch(epoch=progress.epoch, results=results, seconds=progress.seconds, best=is_best)
        display.health(health, alarms)
        stale = progress.epoch - progress.best_epoch
        progress.finished = progress.epoch + 1 >= self.epochs or (
            self.selects and stale >= self.config.train.patience
        )
        progress.epoch, progress.step = progress.epoch + 1, 0
        progress.seconds = 0.0
        self.means.clear()
        if is_best and (self.selects or progress.finished):
            with stage("checkpoint"):
                self.run.write_checkpoint(self.best, {"players": self.state.served.state_dict()})
        if self.selects:
            self._recover(display, collapsed=bool(alarms))
            progress.metrics[-1]["finished"] = progress.finished
            self.run.write_metrics(progress.metrics)
            self.run.write_health(progress.health)
        self.tracking.epoch(progress.metrics[-1], progress.health[-1])
        self.saving.save()
        if self.after_epoch:
            self.after_epoch(progress.epoch - 1, value)

    def _alarms(self, health: Health, value: float) -> tuple[Alarm, ...]:
        """Return the signs of collapse in the epoch that ends; warm-up gives none."""
        progress = self.progress
        if progress.epoch < self.config.train.warmup_epochs:
            return ()
        if progress.floor is None:
            popularity = self._evaluate(Popularity(self.dataset))
            progress.floor = self.workers.from_leader(_selected(popularity, self.config))
        metric = self.config.train.select_on
        return find_alarms(health, metric=metric, value=value, floor=progress.floor)

    def _recover(self, display: Display, *, collapsed: bool) -> None:
        """Keep a healthy epoch; go back to the last one from a collapsed epoch, if that is set."""
        progress, train = self.progress, self.config.train
        if train.on_collapse != "roll-back" or progress.finished:
            return
        if not collapsed:
            self.run.write_checkpoint("healthy", self.state.to_checkpoint())
            return
        if not self.run.has_checkpoint("healthy"):
            return
        if progress.roll_backs == MOST_ROLL_BACKS:
            progress.finished = True
            display.say(f"collapsed again after {MOST_ROLL_BACKS} roll-backs: stopped")
            return
        progress.roll_backs += 1
        rate = train.learning_rate * 0.5**progress.roll_backs
        self.state.restore(self.run.read_checkpoint("healthy"))
        self.state.set_learning_rate(rate)
        display.say(f"rolled back to the last healthy epoch; learning rate now {rate:g}")

    def _validate(self) -> Results:
        with stage("validation"):
            catalogue, served = self.dataset.catalogue, self.state.served
            if self.config.train.table_sharding == "none":
                return self._evaluate(NetworkScorer(catalogue, served))
            with forked(self.device):  # it draws weights that are replaced
                whole = NetworkScorer.from_state(catalogue, self.config.model, served.state_dict())
            return self._evaluate(whole)

    def _evaluate(self, scorer: Scorer) -> Results:
        return evaluate(scorer, self.dataset, part=Part.VALIDATION, workers=self.workers)

    def _epoch_metrics(self, results: Results | None) -> dict[str, Any]:  # Any: JSON
        line: dict[str, Any] = {
            "epoch": self.progress.epoch + 1,
            "seconds": round(self.progress.seconds, 3),
            "losses": self.means.means(LOSS),
        }
        if results:
            line["validation"] = {"micro": results.micro, "macro": results.macro}
        return line

    def _save(self) -> None:
        self.means.settle()
        with stage("checkpoint"):
            self.run.write_checkpoint(
                self.last,
                {
                    **self.state.to_checkpoint(),
                    "random_state": random_state(self.device),
                    "progress": vars(self.progress),
                    "others": self.workers.gather(self._own())[1:],  # see own_of
                },
            )
            self.workers.wait()  # nobody leaves, or reads the run, before it is written

    def _own(self) -> dict[str, Any]:  # Any: see run.Checkpoint
        """Return what in the progress is this process's own."""
        sums = {name: getattr(self.progress, name) for name in SUMS}
        return {"random_state": random_state(self.device), **sums}

    def _restore(self, checkpoint: dict[str, Any]) -> None:  # Any: see run.Checkpoint
        self.state.restore(checkpoint)
        self.progress = progress = FitProgress(**checkpoint["progress"])
        first = {name: getattr(progress, name) for name in SUMS}
        own = own_of(
            [{"random_state": checkpoint["random_state"], **first}, *checkpoint["others"]],
            self.workers,
        )
        self.random_state = own["random_state"] or self._random_state_anew()
        for name in SUMS:
            setattr(progress, name, own[name])

    def _random_state_anew(self) -> dict[str, Tensor]:
        """Return what follows from the seed, this process and how far the fit has come."""
        position = (self.progress.epoch, self.progress.step)
        with forked(self.device):
            torch.manual_seed(self.workers.seed(self.config.train.seed, *position))
            return random_state(self.device)


def expanded_domains(dataset: Dataset, config: Config) -> list[bool]:
    """Return by domain whether the generator expands it."""
    names = dataset.catalogue.domains
    wanted = config.train.expand_domains
    unknown = [name for name in wanted or () if name not in names]
    if unknown:
        raise ConfigError(
            f"train.expand_domains names the unknown domain '{unknown[0]}'; "
            f"the dataset has: {', '.join(names)}"
        )
    return [wanted is None or name in wanted for name in names]


def _selected(results: Results, config: Config) -> float:
    """Return the figure that `train.select_on` names."""
    kind, metric = config.train.select_on.split()
    return (results.micro if kind == "micro" else results.macro)[metric]
