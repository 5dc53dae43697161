"""Where the time goes: clocks by hand, and the files of a profiled training."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from planted import planted_log, small_dataset, tiny_config
from rich.console import Console
from typer.testing import CliRunner

from crossfeed.cli import app
from crossfeed.cli.profiling import print_profile
from crossfeed.data.dataset import Dataset
from crossfeed.errors import RunError
from crossfeed.run import Run
from crossfeed.training import stages
from crossfeed.training.loop.trainer import train
from crossfeed.training.stages import StageClock, clocked, stage, staged
from crossfeed.training.watch import profile
from crossfeed.training.watch.profile import read_profile

CONFIG = tiny_config(epochs=3, batch_size=8, warmup_epochs=1)
CPU = torch.device("cpu")


class Time:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(stages, "time", clock)
    return clock


def test_a_stage_has_its_own_time_without_that_of_stages_inside(time: Time) -> None:
    clock = StageClock(CPU)
    with clocked(clock):
        for _ in range(2):
            with stage("outer"):
                time.now += 1
                with stage("inner"):
                    time.now += 10
                time.now += 2
        time.now += 100  # of no stage
    with stage("inner"):  # the clock no longer runs
        time.now += 1000
    assert clock.seconds == {"outer": 6.0, "inner": 20.0}
    assert clock.times == {"outer": 2, "inner": 2}


def test_what_is_not_to_be_counted_is_not(time: Time) -> None:
    clock = StageClock(CPU)
    clock.counting = False
    with clocked(clock), stage("slow"):
        time.now += 5
    assert (clock.seconds, clock.times) == ({}, {})


def test_a_failing_stage_is_closed(time: Time) -> None:
    clock = StageClock(CPU)
    with clocked(clock):
        with pytest.raises(ZeroDivisionError), stage("failing"):
            time.now += 1
            raise ZeroDivisionError
        time.now += 5
    assert clock.seconds == {"failing": 1.0}


def test_waiting_for_things_is_a_stage(time: Time) -> None:
    def things() -> Iterator[int]:
        for number in range(3):
            time.now += 2
            yield number

    clock, seen = StageClock(CPU), []
    with clocked(clock):
        for thing in staged("waiting", things()):
            time.now += 50
            seen.append(thing)
    assert (seen, clock.seconds) == ([0, 1, 2], {"waiting": 6.0})


def test_without_a_clock_a_stage_is_nothing() -> None:
    assert stage("one") is stage("another")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small_dataset(planted_log(users=20), tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(scope="module")
def run(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile, "_STEPS", 4)  # torch takes a second to sum up 24
        return train(data, out=tmp_path_factory.mktemp("run") / "run", config=CONFIG, profile=True)


def test_every_stage_is_told_and_the_shares_add_up(run: Run) -> None:
    report = read_profile(run.path)
    assert report is not None
    assert {one.stage for one in report.stages} == {
        *("batch assembly", "generator forward", "draws", "discriminator forward"),
        *("generator backward, step", "discriminator backward, step", "losses, health"),
        *("average", "validation", "checkpoint", "other"),
    }
    assert report.stages[-1].stage == "other"
    assert sum(one.share for one in report.stages) == pytest.approx(1)
    assert sum(one.seconds for one in report.stages) == pytest.approx(report.seconds)
    assert all(one.seconds > 0 for one in report.stages)
    times = {one.stage: one.times for one in report.stages}
    assert times["discriminator forward"] == times["average"] == report.steps
    assert times["validation"] == 3


def test_some_steps_are_recorded_by_operator(run: Run) -> None:
    report = read_profile(run.path)
    assert report is not None
    assert report.operator_steps == 4
    names = {own.operator for own in report.operators}
    assert any(name.startswith("aten::") for name in names)
    shares = [own.share for own in report.operators]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1.0001
    trace = json.loads((run.path / "profile-trace.json").read_text("utf-8"))
    assert any(event.get("name") == "aten::mm" for event in trace["traceEvents"])
    table = (run.path / "profile-operators.txt").read_text("utf-8")
    assert "aten::mm" in table and "Self CPU" in table


def test_measuring_changes_nothing(run: Run, data: Dataset, tmp_path: Path) -> None:
    plain = train(data, out=tmp_path / "plain", config=CONFIG)
    assert not (plain.path / "profile.json").exists()
    first, second = (one.read_checkpoint("last")["players"] for one in (run, plain))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_a_damaged_profile_is_named(run: Run, tmp_path: Path) -> None:
    assert read_profile(tmp_path) is None
    for text in ("{", "[]", '{"format_version": 2}', '{"format_version": 1, "stages": 3}'):
        (tmp_path / "profile.json").write_text(text)
        with pytest.raises(RunError, match=r"profile.json' cannot be read\nhint: .*--profile"):
            read_profile(tmp_path)


def test_the_command_prints_it(data: Dataset, tmp_path: Path) -> None:
    words = ["train", str(data.path), "--out", str(tmp_path / "run"), "--profile"]
    settings = ["--set=train.epochs=1", "--set=model.width=16", "--set=train.batch_size=64"]
    result = CliRunner().invoke(app, [*words, *settings])
    assert result.exit_code == 0, result.output
    for word in ("clicks/s", "discriminator forward", "validation", "too short"):
        assert word in result.stdout, word
    (tmp_path / "run" / "profile.json").unlink()
    again = CliRunner().invoke(app, [*words, "--resume"])
    assert (again.exit_code, again.stdout) == (0, "")
    assert "nothing was measured: the run was finished already" in again.stderr


def test_the_operators_are_printed(run: Run) -> None:
    report = read_profile(run.path)
    assert report is not None
    console = Console(width=120, record=True, file=io.StringIO())
    print_profile(console, report)
    text = console.export_text()
    assert "operators of 4 steps" in text and report.operators[0].operator in text
