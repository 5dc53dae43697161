"""Two processes never train in one folder."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from planted import planted_log, small_dataset, tiny_config
from typer.testing import CliRunner

from crossfeed.cli import app
from crossfeed.data.dataset import Dataset
from crossfeed.errors import OutputError
from crossfeed.run import Run
from crossfeed.training.loop.trainer import train

CONFIG = tiny_config(adversary=False, batch_size=128)

SCRIPT = """
import sys
from pathlib import Path
from planted import tiny_config
from crossfeed.data.dataset import Dataset
from crossfeed.training.loop.trainer import Fit
from crossfeed.training.loop.trainer import train

def waits(self, batch):
    print("training", flush=True)
    sys.stdin.readline()

Fit._step = waits
config = tiny_config(adversary=False, batch_size=128)
train(Dataset.load(sys.argv[1]), out=Path(sys.argv[2]), config=config, resume=True)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small_dataset(planted_log(users=24), tmp_path_factory.mktemp("data") / "dataset")


@contextlib.contextmanager
def training(data: Dataset, out: Path) -> Iterator[None]:
    """Have another process train in a folder; at the end it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(data.path), str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "training\n"
        try:
            yield
        finally:
            process.kill()


def test_a_second_process_is_refused_until_the_first_one_is_gone(
    data: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ["train", str(data.path), "--out", str(out)]
    with training(data, out):
        before = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
        for option in ("--resume", "--overwrite"):
            refused = CliRunner().invoke(app, [*words, option])
            assert refused.exit_code != 0
            assert f"another process is at work there: it holds '{out}/.lock'" in refused.stderr
            assert "hint: let it end, or give another --out" in refused.stderr
        assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == before
    assert (out / ".lock").exists()  # its holder was killed
    assert len(train(data, out=out, resume=True).metrics()) == 2
    assert not (out / ".lock").exists()


def test_a_folder_in_which_nothing_has_begun_is_held_too(data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with training(data, out):
        (out / "config.json").unlink()  # as in the moment before it is written
        with pytest.raises(OutputError, match="another process is at work there"):
            train(data, out=out, config=CONFIG, resume=True)
        assert not (out / "config.json").exists()


def test_a_run_that_another_process_made_meanwhile_is_not_replaced(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    only_training = "crossfeed.training.loop.requirements.only_training"

    def late(path: Path) -> contextlib.AbstractContextManager[None]:
        Run.create(path, dataset=data, config=CONFIG, overwrite=False)
        return contextlib.nullcontext()

    monkeypatch.setattr(only_training, late)
    with pytest.raises(OutputError, match="exists already"):
        train(data, out=out, config=CONFIG)
