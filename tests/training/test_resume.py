"""A training that is killed, at whatever moment, and resumed is one that never was."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from planted import planted_log, small_dataset, tiny_config
from run_states import assert_equal, state_of

from crossfeed.config import Config
from crossfeed.data.dataset import Dataset
from crossfeed.run import Run
from crossfeed.training.loop import trainer as fitting
from crossfeed.training.loop.saving import CheckpointTimer
from crossfeed.training.loop.trainer import Fit, train
from crossfeed.training.watch.alarms import Alarm

ATTENTION, EXPERTS = "attention generator, residual", "mixture of experts, no fuse"
MODELS: dict[str, dict[str, object]] = {
    "linear generator, sum": {},
    ATTENTION: {"generator": "attention", "fuse": "residual"},
    EXPERTS: {"discriminator": "mmoe", "fuse": "none"},
}
TRAININGS: dict[str, dict[str, object]] = {
    "average": {},
    "no average": {"average": 0.0},
    "no warm-up, whole pool": {"warmup_epochs": 0, "objective": "full-softmax", "gap": "kl"},
    "roll-back": {"on_collapse": "roll-back", "epochs": 5, "patience": 5},
    "early stop": {"patience": 1, "epochs": 6, "learning_rate": 0.3, "gap": "euclidean"},
    "sampled pools, rows apart": {"pool_items": 8, "dense_items": 0},
    "static": {"proposal_share": 0.0, "static_proposal": "uniform", "gap": "none"},
}
CASES = {
    f"{model}; {training}": (MODELS[model], TRAININGS[training])
    for model, training in itertools.product(MODELS, TRAININGS)
    if not (MODELS[model].get("fuse") == "residual" and "objective" in TRAININGS[training])
}


class Killed(BaseException):
    """Ends a training as kill -9 does: nothing is saved any more."""


class Moments:
    """Counts the steps and the writes of a training, saves after some steps, and kills."""

    def __init__(self) -> None:
        self.passed = 0
        self.kill_at: int | None = None
        self.save_at: Collection[int] = ()

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Be told of every step and of every file, before it is written."""
        for owner, name in (
            (Fit, "_step"),
            (Run, "write_checkpoint"),
            (Run, "write_metrics"),
            (Run, "write_health"),
        ):
            patch.setattr(owner, name, self._counted(getattr(owner, name)))
        patch.setattr(CheckpointTimer, "due", lambda timer: self.passed in self.save_at)

    def _counted(self, original: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object) -> object:
            self.passed += 1
            if self.passed == self.kill_at:
                raise Killed
            return original(*arguments)

        return counted


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small_dataset(planted_log(users=20), tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> Moments:
    counter = Moments()
    counter.install(monkeypatch)
    # An epoch in two collapses, so that roll-backs happen and end.
    monkeypatch.setattr(
        fitting,
        "find_alarms",
        lambda health, **figures: (Alarm("entropy", "made up"),)[: len(str(health)) % 2],
    )
    return counter


def config_of(case: str) -> Config:
    model, training = CASES[case]
    base = tiny_config(**{"epochs": 3, "batch_size": 64, **training})
    return Config.model_validate(
        {"model": {**base.model.model_dump(), **model}, "train": base.train.model_dump()}
    )


UNINTERRUPTED: dict[str, tuple[dict[str, object], int]] = {}
"""Case -> what its uninterrupted run holds, and how many moments it had."""


def uninterrupted(
    case: str, data: Dataset, moments: Moments, folder: Path
) -> tuple[dict[str, object], int]:
    if case not in UNINTERRUPTED:
        moments.passed, moments.kill_at, moments.save_at = 0, None, ()
        run = train(data, out=folder / "whole", config=config_of(case), refit=True, overwrite=True)
        UNINTERRUPTED[case] = state_of(run), moments.passed
    return UNINTERRUPTED[case]


def check(
    case: str,
    data: Dataset,
    moments: Moments,
    folder: Path,
    *,
    kills: Sequence[float],
    saves: Collection[float],
) -> None:
    """Kill a training at shares of its moments, with checkpoints at others, and compare it."""
    expected, length = uninterrupted(case, data, moments, folder)
    shutil.rmtree(folder / "run", ignore_errors=True)
    moments.save_at = {1 + int(save * length) for save in saves}
    for share in (*kills, None):
        moments.passed, moments.kill_at = 0, None if share is None else 1 + int(share * length)
        with contextlib.suppress(Killed):
            config = Config() if (folder / "run").exists() else config_of(case)
            train(data, out=folder / "run", config=config, resume=True, refit=True)
    assert_equal(state_of(Run.open(folder / "run")), expected)


SHARES = st.floats(0, 1, exclude_max=True)
KILLED = given(
    case=st.sampled_from(sorted(CASES)),
    kills=st.lists(SHARES, min_size=1, max_size=3),
    saves=st.lists(SHARES, max_size=6),
)


def checking(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@example(case=f"{EXPERTS}; roll-back", kills=[0.62], saves=[0.55])
@example(case=f"{ATTENTION}; sampled pools, rows apart", kills=[0.44], saves=[0.3])
@example(case=f"{ATTENTION}; average", kills=[0.3, 0.9], saves=[0.1, 0.2, 0.87])
@checking(4)
@KILLED
def test_killed_and_resumed_is_uninterrupted(
    case: str,
    kills: list[float],
    saves: list[float],
    data: Dataset,
    moments: Moments,
    tmp_path: Path,
) -> None:
    check(case, data, moments, tmp_path, kills=kills, saves=saves)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@checking(200)
@KILLED
def test_killed_and_resumed_is_uninterrupted_wherever(
    case: str,
    kills: list[float],
    saves: list[float],
    data: Dataset,
    moments: Moments,
    tmp_path: Path,
) -> None:
    check(case, data, moments, tmp_path, kills=kills, saves=saves)
