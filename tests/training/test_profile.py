"""The profile of a training: torch's table and trace, and the same weights as without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from planted import planted_log, small_dataset, tiny_config
from typer.testing import CliRunner

from crossfeed.cli import app
from crossfeed.data.dataset import Dataset
from crossfeed.run import Run
from crossfeed.training.loop.trainer import train
from crossfeed.training.watch.profile import OPERATORS, TRACE

CONFIG = tiny_config(epochs=3, batch_size=8, warmup_epochs=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small_dataset(planted_log(users=20), tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(scope="module")
def run(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(data, out=tmp_path_factory.mktemp("run") / "run", config=CONFIG, profile=True)


def test_the_table_names_the_parts_of_a_step_and_their_operators(run: Run) -> None:
    table = (run.path / OPERATORS).read_text("utf-8")
    lines = [line.strip() for line in table.splitlines() if line.strip()]
    calls = {line.split("  ")[0]: line.split()[-1] for line in lines}
    parts = (
        *("generator forward", "draws", "discriminator forward", "target loss"),
        *("losses, health", "average"),
        *("generator backward, step", "discriminator backward, step"),
    )
    assert {part: calls[part] for part in parts} == dict.fromkeys(parts, "5")
    assert "aten::mm" in calls


def test_the_trace_holds_the_same_steps(run: Run) -> None:
    events = json.loads((run.path / TRACE).read_text("utf-8"))["traceEvents"]
    names = [event.get("name") for event in events if event.get("ph") == "X"]
    assert names.count("discriminator forward") == 5
    assert "aten::mm" in names


def test_profiling_changes_nothing(run: Run, data: Dataset, tmp_path: Path) -> None:
    plain = train(data, out=tmp_path / "plain", config=CONFIG)
    assert not (plain.path / TRACE).exists()
    first, second = (one.read_checkpoint("last")["players"] for one in (run, plain))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_the_command_says_where_the_profile_is(data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["train", str(data.path), "--out", str(out), "--profile", "--set=model.width=16"]
    steps = ["--set=train.epochs=2", "--set=train.batch_size=8"]
    shown = CliRunner().invoke(app, [*words, *steps])
    assert shown.exit_code == 0, shown.output
    assert f"the profile is in {out}: {OPERATORS}, {TRACE}" in shown.stderr


def test_the_command_says_that_a_training_was_too_short(data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["train", str(data.path), "--out", str(out), "--profile", "--set=model.width=16"]
    shown = CliRunner().invoke(app, [*words, "--set=train.epochs=1"])
    assert shown.exit_code == 0, shown.output
    assert "no profile: the training made too few steps after its warm-up epochs" in shown.stderr
    assert not (out / TRACE).exists()
