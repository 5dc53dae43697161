"""The run's folder: what is refused, and what is read back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from planted import tiny_config

from crossfeed.config import ModelConfig
from crossfeed.data.dataset import Dataset
from crossfeed.errors import DatasetError, OutputError, RunError
from crossfeed.run import Run


@pytest.fixture
def run(last_out: Dataset, tmp_path: Path) -> Run:
    return Run.create(
        tmp_path / "run", dataset=last_out, config=tiny_config(seed=5), overwrite=False
    )


def test_a_run_comes_back_as_it_was_made(run: Run, last_out: Dataset) -> None:
    opened = Run.open(run.path)
    assert opened.config == run.config
    assert opened.config.train.seed == 5
    assert opened.config.data == last_out.config
    assert opened.dataset().path == last_out.path.resolve()
    assert opened.metrics() == []
    assert not opened.refitted


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run: it has no config.json\nhint: .*train"):
        Run.open(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"config": {}}', '"text"'])
def test_a_damaged_configuration_is_named(run: Run, text: str) -> None:
    (run.path / "config.json").write_text(text)
    with pytest.raises(RunError, match=r"is damaged: config.json cannot be read"):
        Run.open(run.path)


def test_another_format_version_is_refused(run: Run) -> None:
    file = run.path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format_version": 99}))
    with pytest.raises(RunError, match="has format version 99; this crossfeed reads 2"):
        Run.open(run.path)


def test_a_run_without_a_finished_epoch_has_no_scorer(run: Run) -> None:
    with pytest.raises(RunError, match=r"has no best checkpoint yet\nhint: .*--resume"):
        run.scorer()


def test_a_checkpoint_is_read_back(run: Run) -> None:
    run.write_checkpoint("last", {"players": {"a": torch.ones(2)}, "progress": {"epoch": 3}})
    checkpoint = run.read_checkpoint("last")
    assert checkpoint["progress"] == {"epoch": 3}
    assert torch.equal(checkpoint["players"]["a"], torch.ones(2))


def test_new_best_weights_leave_nothing_that_was_measured_of_others(
    run: Run, last_out: Dataset
) -> None:
    measured = ["gate.json", "outcomes.parquet", "report.html", "results.json", "transfer.json"]
    for name in measured:
        (run.path / name).touch()
    run.write_checkpoint("last", {})
    assert all((run.path / name).exists() for name in measured)
    run.write_checkpoint("best", {})
    assert not any((run.path / name).exists() for name in measured)
    (run.path / "report.html").touch()
    Run.create(run.path, dataset=last_out, config=run.config, overwrite=True)
    assert not (run.path / "report.html").exists()


def test_a_checkpoint_that_runs_code_is_refused(run: Run) -> None:
    run.write_checkpoint("last", {"config": ModelConfig()})  # a class: not plain data
    with pytest.raises(RunError, match=r"last.pt' is damaged"):
        run.read_checkpoint("last")


def test_a_failed_checkpoint_leaves_the_one_before(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.write_checkpoint("last", {"progress": {"epoch": 1}})

    def full_disk(value: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OutputError, match="No space left on device"):
        run.write_checkpoint("last", {"progress": {"epoch": 2}})
    assert run.read_checkpoint("last")["progress"] == {"epoch": 1}
    assert [file.name for file in (run.path / "checkpoints").iterdir()] == ["last.pt"]


def test_figures_stay_while_new_best_weights_cannot_be_written(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.write_checkpoint("best", {"progress": {"epoch": 1}})
    (run.path / "results.json").write_text("{}")

    def full_disk(value: object, file: BinaryIO) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        with pytest.raises(OutputError, match="No space left on device"):
            run.write_checkpoint("best", {"progress": {"epoch": 2}})
    assert run.read_checkpoint("best")["progress"] == {"epoch": 1}
    assert (run.path / "results.json").exists()
    run.write_checkpoint("best", {"progress": {"epoch": 2}})
    assert not (run.path / "results.json").exists()


def test_a_dataset_that_changed_is_refused(last_out: Dataset, tmp_path: Path) -> None:
    copy = tmp_path / "dataset"
    shutil.copytree(last_out.path, copy)
    run = Run.create(
        tmp_path / "run", dataset=Dataset.load(copy), config=tiny_config(), overwrite=False
    )
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "content_hash": "0" * 64}))
    with pytest.raises(RunError, match="its content hash is 000000000000, the run's is"):
        run.dataset()
    shutil.rmtree(copy)
    moved = rf"is no longer at '{copy}'\nhint: say where it is now: .* --out {run.path} --resume"
    with pytest.raises(DatasetError, match=moved):
        run.dataset()
