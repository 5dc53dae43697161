"""Signals to a training, and when it saves by itself."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from planted import planted_log, small_dataset, tiny_config
from typer.testing import CliRunner

from crossfeed.cli import app
from crossfeed.config import Config
from crossfeed.data.dataset import Dataset
from crossfeed.evaluation.results import Results
from crossfeed.model.players import Players
from crossfeed.run import Run
from crossfeed.training.loop import saving
from crossfeed.training.loop.saving import CheckpointTimer
from crossfeed.training.loop.trainer import Fit, train
from crossfeed.training.loop.validation import Validation
from crossfeed.training.step.batches import Batch

CONFIG = tiny_config(epochs=3, batch_size=64)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small_dataset(planted_log(users=20), tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(scope="module")
def uninterrupted(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(data, out=tmp_path_factory.mktemp("uninterrupted") / "run", config=CONFIG)


def assert_same(one: Run, other: Run) -> None:
    for name in ("best", "last"):
        first, second = (run.read_checkpoint(name)["players"] for run in (one, other))  # type: ignore[arg-type]
        assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert one.health() == other.health()


def options(config: Config) -> list[str]:
    """Return what gives the command the same settings."""
    train_settings = config.train.model_dump(exclude_unset=True)
    settings = [f"--set=train.{key}={value}" for key, value in train_settings.items()]
    return settings + [f"--set=model.{key}={one}" for key, one in config.model.model_dump().items()]


SCRIPT = """
import sys
from crossfeed.cli import main
from crossfeed.training.loop.trainer import Fit

step = Fit._step
def told_step(self, batch):
    step(self, batch)
    print("step", flush=True)
    sys.stdin.readline()  # goes on when it is told to
Fit._step = told_step
main()
"""


def signalled(
    data: Dataset, out: Path, config: Config, *, steps: int, number: signal.Signals
) -> tuple[int, str]:
    """Train by the command, send it a signal after some steps, return exit code and stderr."""
    words = ["train", str(data.path), "--out", str(out), *options(config)]
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        for step in range(steps):
            if step:
                process.stdin.write("go on\n")
                process.stdin.flush()
            line = process.stdout.readline()
            assert line == "step\n", process.stderr.read()
        process.send_signal(number)
        process.stdin.close()
        error = process.stderr.read()
    return process.returncode, error


def test_a_killed_process_goes_on_within_its_epoch(
    data: Dataset, uninterrupted: Run, tmp_path: Path
) -> None:
    config = Config.model_validate(CONFIG.model_dump(exclude_unset=True))
    often = config.train.model_copy(update={"checkpoint_minutes": 1e-6})
    config = config.model_copy(update={"train": often})
    code, _ = signalled(data, tmp_path / "run", config, steps=3, number=signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert Run.open(tmp_path / "run").read_checkpoint("last")["progress"]["step"] > 0
    assert_same(train(data, out=tmp_path / "run", resume=True), uninterrupted)


def assert_stopped(out: Path, data: Dataset, error: str) -> None:
    assert "Traceback" not in error
    assert f"stopped and saved; continue with: crossfeed train {data.path} --out {out}" in error
    progress = Run.open(out).read_checkpoint("last")["progress"]
    assert progress["epoch"] == 1 and progress["step"] > 0


def test_sigterm_saves_the_step_and_says_how_to_go_on(
    data: Dataset, uninterrupted: Run, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, error = signalled(data, out, CONFIG, steps=7, number=signal.SIGTERM)
    assert code == 143, error
    assert_stopped(out, data, error)
    assert_same(train(data, out=out, resume=True), uninterrupted)


def test_ctrl_c_saves_the_step_and_says_how_to_go_on(
    data: Dataset, uninterrupted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, step, steps = tmp_path / "run", Fit._step, iter(range(100))

    def asked(fit: Fit, batch: Batch) -> None:
        if next(steps) == 6:
            signal.raise_signal(signal.SIGINT)
        step(fit, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_step", asked)
        words = ["train", str(data.path), "--out", str(out), *options(CONFIG)]
        result = CliRunner().invoke(app, words)
    assert result.exit_code == 130
    assert_stopped(out, data, result.stderr)
    assert_same(train(data, out=out, resume=True), uninterrupted)


def test_a_signal_during_validation_stops_behind_it(
    data: Dataset, uninterrupted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = Validation.evaluate

    def asked(validation: Validation, served: Players) -> Results:
        signal.raise_signal(signal.SIGTERM)
        return validate(validation, served)

    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="143"):
        patch.setattr(Validation, "evaluate", asked)
        train(data, out=tmp_path / "run", config=CONFIG, refit=True)
    progress = Run.open(tmp_path / "run").read_checkpoint("last")["progress"]
    assert (progress["epoch"], progress["step"]) == (1, 0)
    assert_same(train(data, out=tmp_path / "run", resume=True), uninterrupted)


def test_the_command_to_go_on_with_finishes_what_was_asked_for(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, step = tmp_path / "my run", Fit._step

    def asked(fit: Fit, batch: Batch) -> None:
        if fit.stage == "refit":
            signal.raise_signal(signal.SIGTERM)
        step(fit, batch)

    config = tiny_config(adversary=False, epochs=1)
    words = ["train", str(data.path), "--out", str(out), *options(config), "--refit", "--profile"]
    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_step", asked)
        stopped = CliRunner().invoke(app, words)
    assert stopped.exit_code == 143
    shown = stopped.stderr.partition("continue with: ")[2].splitlines()[0]
    assert shown == f"crossfeed train {data.path} --out '{out}' --resume --refit --profile"
    assert not Run.open(out).refitted
    resumed = CliRunner().invoke(app, shlex.split(shown)[1:])
    assert resumed.exit_code == 0, resumed.stderr
    assert Run.open(out).refitted


def test_a_second_ctrl_c_stops_at_once(
    data: Dataset, uninterrupted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Fit._step

    def twice(fit: Fit, batch: Batch) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        step(fit, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Fit, "_step", twice)
        train(data, out=tmp_path / "run", config=CONFIG)
    assert not Run.open(tmp_path / "run").has_checkpoint("last")
    assert_same(train(data, out=tmp_path / "run", resume=True), uninterrupted)


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_it_is_time_to_save_after_minutes_and_never_too_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, took = Clock(), 1.0
    monkeypatch.setattr(saving, "time", clock)

    def write() -> None:
        with timer.writing():
            clock.now += took

    timer = CheckpointTimer(minutes=2)
    clock.now = 119
    assert not timer.due()
    clock.now = 120
    assert timer.due()
    write()
    clock.now += 119
    assert not timer.due()
    clock.now += 1
    assert timer.due()
    took = 60.0  # a slow disk: then 20 times as much work comes between two checkpoints
    write()
    clock.now += 20 * took - 1
    assert not timer.due()
    clock.now += 1
    assert timer.due()


def test_without_minutes_only_epochs_save(data: Dataset, tmp_path: Path) -> None:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "time", clock)
        timer = CheckpointTimer(minutes=0)
        clock.now = 1e9
        assert not timer.due()
    written: list[str] = []
    config = tiny_config(epochs=2, batch_size=64, checkpoint_minutes=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "write_checkpoint", lambda run, name, _: written.append(name))
        train(data, out=tmp_path / "run", config=config)
    assert written.count("last") == 2
