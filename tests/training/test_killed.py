"""A training that is killed with the demo's sizes and two threads equals one that never was."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from run_states import assert_equal, state_of

from crossfeed.config import DataConfig
from crossfeed.data.dataset import Dataset
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.data.simulate.clicks import simulate
from crossfeed.run import Run

KILLABLE = Path(__file__).parents[1] / "killable.py"
STEPS = 45
"""Of an epoch on the demo's log; a place that is never reached fails the test."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return the log of `crossfeed demo`, prepared as it does."""
    folder = tmp_path_factory.mktemp("demo")
    simulate(folder / "log.parquet", users=2_000, items=1_200, domains=6, events=60_000)
    return prepare(folder / "log.parquet", out=folder / "dataset", config=DataConfig())


def trained(
    data: Dataset, out: Path, *, epochs: int, kills: Sequence[str] = (), saves: Sequence[int] = ()
) -> dict[str, object]:
    """Train with two threads, killed at places and resumed, and return what the run holds."""
    plan = {"train": {"epochs": epochs}, "kills": kills, "saves": saves}
    ended = subprocess.run(
        [sys.executable, str(KILLABLE), str(data.path), str(out), json.dumps(plan)],
        env={**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return state_of(Run.open(out))


def written(file: str, steps: int) -> list[str]:
    """Return the places around a checkpoint's file."""
    return [f"{file} {state} {steps}" for state in ("half written", "complete", "in place")]


@contextlib.contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Have other processes compete for the cores."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@pytest.mark.timeout(900)
def test_killed_in_each_part_of_an_epoch(data: Dataset, tmp_path: Path) -> None:
    kills = [
        "step 3",  # nothing has been saved
        "last.pt half written 5",
        "step 10",
        f"validated {STEPS}",
        f"best.pt in place {STEPS}",
        f"last.pt complete {STEPS}",
        f"step {STEPS + 5}",
    ]
    killed = trained(data, tmp_path / "killed", epochs=2, kills=kills, saves=[5, STEPS - 1])
    assert_equal(killed, trained(data, tmp_path / "whole", epochs=2))


@pytest.fixture(scope="module")
def uninterrupted(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return trained(data, tmp_path_factory.mktemp("whole") / "run", epochs=3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("loops", [0, 2], ids=["quiet", "beside busy loops"])
def test_killed_at_every_place_of_three_epochs(
    loops: int, data: Dataset, uninterrupted: dict[str, object], tmp_path: Path
) -> None:
    kills, saves = ["step 1"], []
    for epoch in range(3):
        begin, end = epoch * STEPS, (epoch + 1) * STEPS
        saves += [begin + 10, begin + 30, end - 1]
        kills += [f"step {begin + 5}", *written("last.pt", begin + 10), f"step {begin + 20}"]
        kills += [*written("last.pt", begin + 30), f"step {end}", f"validated {end}"]
        kills += [*written("best.pt", end), f"metrics.jsonl complete {end}"]
        kills += [f"metrics.jsonl in place {end}", f"health.jsonl complete {end}"]
        kills += [f"health.jsonl in place {end}", *written("last.pt", end)]
    with busy_cores(loops):
        killed = trained(data, tmp_path / "run", epochs=3, kills=kills, saves=saves)
    assert_equal(killed, uninterrupted)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("loops", [0, 2], ids=["quiet", "beside busy loops"])
def test_trained_twice_is_the_same(
    loops: int, data: Dataset, uninterrupted: dict[str, object], tmp_path: Path
) -> None:
    with busy_cores(loops):
        for again in range(2):
            assert_equal(trained(data, tmp_path / str(again), epochs=3), uninterrupted)
