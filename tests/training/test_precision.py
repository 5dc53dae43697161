"""What the players' forward passes are made in: bfloat16.

On the processor; tests/test_gpu.py has the GPU's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from planted import planted_log, small_dataset, tiny_config

from crossfeed.config import Config, ModelConfig, parse_config
from crossfeed.data.dataset import Dataset
from crossfeed.errors import ConfigError
from crossfeed.run import Run
from crossfeed.training.loop import trainer as fitting
from crossfeed.training.loop.trainer import train
from crossfeed.training.step.steps import StepResult

DISCRIMINATORS = get_args(ModelConfig.model_fields["discriminator"].annotation)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small_dataset(planted_log(users=20), tmp_path_factory.mktemp("data") / "dataset")


def config(precision: str, **model: object) -> Config:
    train_settings = {"epochs": 2, "batch_size": 64, "precision": precision}
    tree = tiny_config(**train_settings).model_dump()
    return parse_config({"model": {**tree["model"], **model}, "train": tree["train"]})


def losses(run: Run) -> np.ndarray:
    return np.array([list(line["losses"].values()) for line in run.metrics()])


@pytest.mark.parametrize("discriminator", DISCRIMINATORS)
def test_every_network_learns_the_same_in_half_the_bits(
    discriminator: str, data: Dataset, tmp_path: Path
) -> None:
    model = {"discriminator": discriminator, "generator": "attention"}
    whole = train(data, out=tmp_path / "whole", config=config("float32", **model))
    half = train(data, out=tmp_path / "half", config=config("bfloat16", **model))
    assert losses(half) == pytest.approx(losses(whole), rel=0.02, abs=0.02)
    assert not np.array_equal(losses(half), losses(whole))
    weights = half.read_checkpoint("best")["players"]
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {
        torch.float32
    }


@pytest.mark.parametrize("objective", ["softmax", "full-softmax", "binary"])
def test_softmax_and_losses_stay_float32(
    objective: str, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[torch.dtype] = set()
    step = fitting.train_step

    def told(*arguments: Any, **named: Any) -> StepResult:
        result = step(*arguments, **named)
        proposals, scores = vars(result.proposals), vars(result.scores)
        parts = (*proposals.values(), *result.proposals.confidences, *scores.values())
        for part in (*parts, *result.losses.values()):
            if isinstance(part, torch.Tensor) and part.is_floating_point():
                seen.add(part.dtype)
        return result

    monkeypatch.setattr(fitting, "train_step", told)
    settings = config("bfloat16")
    settings = settings.model_copy(
        update={"train": settings.train.model_copy(update={"objective": objective})}
    )
    train(data, out=tmp_path / "run", config=settings)
    assert seen == {torch.float32}


def test_a_gpu_without_it_is_refused_before_the_run_is_made(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Old 9000")
    with pytest.raises(ConfigError, match=r"the GPU 'Old 9000' has no instructions for it\nhint: "):
        train(data, out=tmp_path / "run", config=config("bfloat16"))
    assert not (tmp_path / "run").exists()
