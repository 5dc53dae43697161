"""A preparation that breaks off goes on; one that fails leaves nothing; memory has a limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossfeed.config import DataConfig
from crossfeed.data.prepare import pipeline as module
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.errors import ConfigError, LogError, OutputError

CONFIG = DataConfig(split="last-out")
WORK = ".dataset.preparing"


def write_log(file: Path, rows: int = 5_000, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    domain = rng.integers(2, size=rows)
    table = pa.table(
        {
            "user_id": rng.integers(rows // 25, size=rows),
            "item_id": rng.integers(50, size=rows),
            "domain": pa.array(["a", "b"]).take(pa.array(domain)),
            "timestamp": 1_700_000_000 + np.arange(rows),
        }
    )
    pq.write_table(table, file)
    return file


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write_log(tmp_path / "log.parquet")


def interrupt_in(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, name, stop)


@pytest.mark.parametrize("stage", ["read_log", "encode", "index", "write_tables"])
def test_an_interrupted_preparation_goes_on_behind_its_last_stage(
    stage: str,
    log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    whole = prepare(log, out=tmp_path / "whole", config=CONFIG).manifest
    order = ["read_log", "encode", "index", "write_tables"]
    with monkeypatch.context() as patched:
        interrupt_in(stage, patched)
        with pytest.raises(KeyboardInterrupt):
            prepare(log, out=tmp_path / "dataset", config=CONFIG)
    assert "the same command continues after the last finished stage" in caplog.text
    assert (tmp_path / WORK).exists() and not (tmp_path / "dataset").exists()
    done = [name for name in order[: order.index(stage)] if name in ("read_log", "encode")]
    for name in done:  # these must not be called again
        interrupt_in(name, monkeypatch)
    resumed = prepare(log, out=tmp_path / "dataset", config=CONFIG).manifest
    assert resumed == whole
    assert not (tmp_path / WORK).exists()


def test_other_work_is_done_anew(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        interrupt_in("write_tables", patched)
        with pytest.raises(KeyboardInterrupt):
            prepare(log, out=tmp_path / "dataset", config=CONFIG)
    other = CONFIG.model_copy(update={"min_item_events": 2})
    assert prepare(log, out=tmp_path / "dataset", config=other).config == other


def test_a_log_that_changed_is_read_anew(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        interrupt_in("write_tables", patched)
        with pytest.raises(KeyboardInterrupt):
            prepare(log, out=tmp_path / "dataset", config=CONFIG)
    write_log(log, seed=1)
    changed = prepare(log, out=tmp_path / "dataset", config=CONFIG).manifest
    assert changed == prepare(log, out=tmp_path / "other", config=CONFIG).manifest


def test_another_file_of_a_source_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("Books", "Music"):
        rows = [f"{name}{n % 4},u{n // 4},5.0,{1_600_000_000 + n}\n" for n in range(40)]
        (tmp_path / f"{name}.csv").write_text("".join(rows))
    config = CONFIG.model_copy(update={"min_domain_events": 1})
    with monkeypatch.context() as patched:
        interrupt_in("write_tables", patched)
        with pytest.raises(KeyboardInterrupt):
            prepare(
                tmp_path / "Books.csv",
                out=tmp_path / "dataset",
                config=config,
                source="amazon-2018",
            )
    other = prepare(
        tmp_path / "Music.csv", out=tmp_path / "dataset", config=config, source="amazon-2018"
    )
    assert other.catalogue.domains == ("Music",)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [(OSError(28, "No space left"), OutputError), (LogError("no"), LogError)],
)
def test_an_error_leaves_nothing(
    failure: Exception,
    expected: type[Exception],
    log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*given: object) -> None:
        raise failure

    monkeypatch.setattr(module, "write_tables", fail)
    with pytest.raises(expected):
        prepare(log, out=tmp_path / "dataset", config=CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["log.parquet"]


KILLED = """
import signal, sys
from crossfeed.config import DataConfig
from crossfeed.data.prepare import pipeline as module
make = getattr(module, sys.argv[3])
def slow(*given, **named):
    made = make(*given, **named)
    print("made", flush=True)
    signal.pause()  # until it is killed
    return made
setattr(module, sys.argv[3], slow)
module.prepare(sys.argv[1], out=sys.argv[2], config=DataConfig(split="last-out"))
"""


@pytest.fixture
def start(log: Path, tmp_path: Path) -> Callable[[str], subprocess.Popen[str]]:
    """Return a function that starts a preparation which waits at the end of a stage."""

    def started(stage: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(log), str(tmp_path / "dataset"), stage],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None and process.stdout.readline() == "made\n"
        return process

    return started


@pytest.mark.parametrize("stage", ["read_log", "encode", "write_tables"])
def test_a_killed_preparation_goes_on(
    stage: str, log: Path, tmp_path: Path, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    with start(stage) as process:
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / WORK).exists()
    resumed = prepare(log, out=tmp_path / "dataset", config=CONFIG).manifest
    assert resumed == prepare(log, out=tmp_path / "whole", config=CONFIG).manifest


@pytest.mark.parametrize("split", ["last-out", "temporal"])
def test_a_second_process_is_refused_and_leaves_the_first_its_work(
    split: str, log: Path, tmp_path: Path, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    config = DataConfig.model_validate({"split": split})
    with start("read_log") as process:
        with pytest.raises(OutputError, match="another process is at work there") as caught:
            prepare(log, out=tmp_path / "dataset", config=config)
        assert (tmp_path / WORK / "engine" / "work.duckdb").exists()
        process.kill()
    assert caught.value.hint == "let it end, or give another --out"
    prepare(log, out=tmp_path / "dataset", config=config)
    assert {path.name for path in tmp_path.iterdir()} == {"dataset", "log.parquet"}


@pytest.mark.parametrize("out", ["file/dataset", "/proc/dataset"])
def test_a_place_that_cannot_be_written_is_one_clear_error(
    out: str, log: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        prepare(log, out=tmp_path / out, config=CONFIG)


def test_work_that_is_in_the_way_is_one_clear_error(log: Path, tmp_path: Path) -> None:
    (tmp_path / WORK).write_text("no folder")
    with pytest.raises(OutputError, match=rf"cannot write '.*{WORK}"):
        prepare(log, out=tmp_path / "dataset", config=CONFIG)


def test_a_memory_limit_changes_no_number(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.parquet", rows=200_000)
    whole, limited = (
        prepare(log, out=tmp_path / f"{limit}", config=CONFIG, memory_limit=limit).manifest
        for limit in (None, "120MiB")
    )
    assert limited["content_hash"] == whole["content_hash"]


@pytest.mark.parametrize("limit", ["1KiB", "2MiB"])
def test_too_little_memory_is_one_clear_error(limit: str, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.parquet", rows=200_000)
    with pytest.raises(OutputError, match="the work did not fit") as caught:
        prepare(log, out=tmp_path / "dataset", config=CONFIG, memory_limit=limit)
    assert "--memory-limit" in str(caught.value.hint)
    assert [path.name for path in tmp_path.iterdir()] == ["log.parquet"]


@pytest.mark.parametrize("limit", ["", "much", "-2GiB", "0GiB", "2 parsecs"])
def test_a_memory_limit_is_a_size(limit: str, log: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        prepare(log, out=tmp_path / "dataset", config=CONFIG, memory_limit=limit)
