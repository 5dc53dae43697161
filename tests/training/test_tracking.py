"""Trackers: what they are told is read back with their own readers."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from planted import planted_log, small_dataset, tiny_config
from typer.testing import CliRunner

from crossfeed.cli import app
from crossfeed.config import Config
from crossfeed.data.dataset import Dataset
from crossfeed.errors import MissingExtraError
from crossfeed.installing import install_hint
from crossfeed.run import Run
from crossfeed.training.loop.trainer import train
from crossfeed.training.watch.tracking import figures

Scalars = dict[str, list[tuple[int, float]]]
"""Name -> (epoch, value) in the order in which they are kept."""


def config(*track: str) -> Config:
    return tiny_config(adversary=False, epochs=3, batch_size=256, track=list(track))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small_dataset(planted_log(users=20), tmp_path_factory.mktemp("data") / "dataset")


def stop_after_first(epoch: int, value: float) -> None:
    raise InterruptedError


def expected(run: Run) -> Scalars:
    """Return what should be read back, from the run's own files."""
    kept: Scalars = {}
    for line, health in zip(run.metrics(), run.health(), strict=True):
        for name, value in figures(line, health):
            kept.setdefault(name, []).append((line["epoch"], pytest.approx(value)))
    return kept


def tensorboard_scalars(folder: Path) -> Scalars:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        name: [(one.step, one.value) for one in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def mlflow_scalars(run: Run, *, track: list[str]) -> Scalars:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{run.path / 'mlflow.sqlite'}")
    (kept,) = client.search_runs([client.get_experiment_by_name("crossfeed").experiment_id])
    assert kept.info.run_name == run.path.name
    assert kept.info.status == "FINISHED"
    assert kept.data.params["model.width"] == "16"
    assert kept.data.params["train.track"] == json.dumps(track)
    assert kept.data.tags["dataset_hash"] == run.facts["dataset_hash"]
    return {
        name: [(one.step, one.value) for one in client.get_metric_history(kept.info.run_id, name)]
        for name in kept.data.metrics
    }


def test_figures_by_hand() -> None:
    metrics = {
        "epoch": 2,
        "seconds": 1.5,
        "losses": {"discriminator": 0.25},
        "validation": {"micro": {"ndcg@10": 0.5}, "macro": {"ndcg@10": 0.75}},
    }
    health = {
        "epoch": 2,
        "separation": 0.9,
        "reward_mean": None,
        "entropy": {"books of all kinds!": 0.5, "films": 0.25},
        "gradient_norms": {"discriminator": 3.0},
        "alarms": [{"name": "entropy", "cause": "low"}],
    }
    assert dict(figures(metrics, health)) == {
        "epoch_seconds": 1.5,
        "losses/discriminator": 0.25,
        "validation/micro/ndcg_at_10": 0.5,
        "validation/macro/ndcg_at_10": 0.75,
        "health/separation": 0.9,
        "health/entropy_mean": 0.375,
        "health/entropy_least": 0.25,
        "health/gradient_norms/discriminator": 3.0,
        "health/alarms": 1,
    }


def test_tensorboard_has_each_epoch_once_also_after_a_resume(data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(InterruptedError):
        train(data, out=out, config=config("tensorboard"), after_epoch=stop_after_first)
    before = tensorboard_scalars(out / "tensorboard/train")
    assert [epoch for epoch, _ in before["epoch_seconds"]] == [1]
    run = train(data, out=out, resume=True, refit=True)
    assert tensorboard_scalars(out / "tensorboard/train") == expected(run)
    refit = tensorboard_scalars(out / "tensorboard/refit")
    assert "losses/discriminator" in refit and not any(name.startswith("vali") for name in refit)


def test_mlflow_has_each_epoch_once_also_after_a_resume(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = tmp_path / "run"
    with pytest.raises(InterruptedError):
        train(data, out=out, config=config("mlflow"), after_epoch=stop_after_first)
    run = train(data, out=out, resume=True, refit=True)
    found = mlflow_scalars(run, track=["mlflow"])
    refit = {name for name in found if name.startswith("refit/")}
    assert {name: found[name] for name in found.keys() - refit} == expected(run)
    epochs = run.read_checkpoint("refit-last")["progress"]["epoch"]
    assert len(found["refit/losses/discriminator"]) == epochs


def test_a_tracker_that_fails_is_left_out_and_told_later(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out, whole = tmp_path / "run", tmp_path / "whole"

    def break_and_stop(epoch: int, value: float) -> None:
        if epoch == 1:
            raise InterruptedError
        shutil.copy(out / "mlflow.sqlite", whole)
        (out / "mlflow.sqlite").write_bytes(b"no database any more" * 1000)

    with pytest.raises(InterruptedError):
        train(data, out=out, config=config("mlflow", "tensorboard"), after_epoch=break_and_stop)
    (warning,) = caplog.messages
    assert warning.startswith("warning: mlflow stopped tracking (")
    assert warning.endswith("the training continues, and a resumed run sends the missed epochs")
    shutil.copy(whole, out / "mlflow.sqlite")
    run = train(data, out=out, resume=True)
    assert mlflow_scalars(run, track=["mlflow", "tensorboard"]) == expected(run)
    assert tensorboard_scalars(out / "tensorboard/train") == expected(run)
    assert sum("stopped tracking" in message for message in caplog.messages) == 1


def test_a_tracker_that_cannot_begin_is_left_out(
    data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def block(epoch: int, value: float) -> None:
        (tmp_path / "run" / "tensorboard").write_text("a file where a folder should be")
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train(data, out=tmp_path / "run", config=config(), after_epoch=block)
    run = train(data, out=tmp_path / "run", config=config("tensorboard"), resume=True)
    assert len(run.metrics()) == 3
    assert [message.partition(":")[2][:34] for message in caplog.messages] == [
        " tensorboard stopped tracking (Not"
    ]


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow")]
)
def test_without_the_extra_the_way_to_install_it_is_told(
    name: str, package: str, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=re.escape(f"hint: {install_hint(name)}")):
        train(data, out=tmp_path / "run", config=config(name))
    assert not (tmp_path / "run").exists()


def test_the_command_tracks(data: Dataset, tmp_path: Path) -> None:
    words = ["train", str(data.path), "--out", str(tmp_path / "run"), "--set=train.epochs=1"]
    settings = ["--set=model.width=16", "--set=train.batch_size=256", "--track=tensorboard"]
    result = CliRunner().invoke(app, [*words, *settings])
    assert result.exit_code == 0, result.output
    assert tensorboard_scalars(tmp_path / "run/tensorboard/train") == expected(
        Run.open(tmp_path / "run")
    )
    refused = CliRunner().invoke(app, [*words, "--track=paper"])
    assert (refused.exit_code, "'tensorboard' or 'mlflow'" in refused.stderr) == (1, True)
