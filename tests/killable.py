"""Trains in processes that kill themselves (SIGKILL) at planned places, one after the other.

    python killable.py DATASET RUN '{"train": {...}, "saves": [...], "kills": [...]}'

A place is what has just happened and how many steps the training had then: "step 20", "last.pt half
written 25", "best.pt in place 47". Processes are forked, so that nothing is imported twice.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from crossfeed.config import Config
from crossfeed.data.dataset import Dataset
from crossfeed.training.loop.saving import CheckpointTimer
from crossfeed.training.loop.trainer import Fit, train
from crossfeed.training.loop.validation import Validation


class Places:
    """Knows where the training is, and kills its process at one place."""

    def __init__(self, kill: str | None, saves: list[int]) -> None:
        self._kill, self._saves = kill, saves
        self._steps = 0

    def reached(self, what: str) -> None:
        """Die if this is the place."""
        if f"{what} {self._steps}" == self._kill:
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Be told of the steps, of the validation, and of every file in three states."""
        Fit.go_on = self._begins(Fit.go_on)  # type: ignore[method-assign]
        Fit._step = self._steps_on(Fit._step)  # type: ignore[method-assign]
        Validation.evaluate = self._validates(Validation.evaluate)  # type: ignore[method-assign]
        CheckpointTimer.due = lambda timer: self._steps in self._saves  # type: ignore[method-assign]
        torch.save = self._saves_in_halves(torch.save)
        os.replace = self._replaces(os.replace)

    def _begins(self, original: Callable[[Fit], None]) -> Callable[[Fit], None]:
        def go_on(fit: Fit) -> None:
            self._steps = fit.progress.epoch * fit.steps + fit.progress.step
            original(fit)

        return go_on

    def _steps_on(self, original: Callable[..., None]) -> Callable[..., None]:
        def step(fit: Fit, batch: Any) -> None:
            original(fit, batch)
            self._steps = batch.epoch * fit.steps + batch.step + 1
            self.reached("step")

        return step

    def _validates(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def evaluate(*arguments: Any) -> Any:
            results = original(*arguments)
            self.reached("validated")
            return results

        return evaluate

    def _saves_in_halves(self, original: Callable[..., None]) -> Callable[..., None]:
        def save(value: object, file: BinaryIO) -> None:
            whole = io.BytesIO()
            original(value, whole)
            half = len(whole.getvalue()) // 2
            file.write(whole.getvalue()[:half])
            file.flush()
            self.reached(f"{Path(file.name).name.split('.')[1]}.pt half written")
            file.write(whole.getvalue()[half:])

        return save

    def _replaces(self, original: Callable[..., None]) -> Callable[..., None]:
        def replace(source: Path, target: Path) -> None:
            self.reached(f"{target.name} complete")
            original(source, target)
            self.reached(f"{target.name} in place")

        return replace


def main(dataset: str, out: str, plan: str) -> None:
    """Train until the run is finished; fail if a place is not reached."""
    planned = json.loads(plan)
    for kill in (*planned["kills"], None):
        child = os.fork()
        if not child:
            _train(dataset, Path(out), planned, kill)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != (0 if kill is None else -signal.SIGKILL):
            sys.exit(f"the process that was to die at '{kill}' ended with {code}")


def _train(dataset: str, out: Path, planned: dict[str, Any], kill: str | None) -> None:
    try:
        Places(kill, planned["saves"]).install()
        config = Config.model_validate({"train": planned["train"]})
        train(Dataset.load(dataset), out=out, config=config, resume=True)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
