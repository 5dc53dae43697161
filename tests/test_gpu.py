"""What a GPU must do as a processor does. Skipped where there is none.

Sums on a GPU are made in an order that differs from run to run, so equality is up to rounding.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import planted_log, small_dataset, tiny_config

from crossfeed.config import Config
from crossfeed.data.dataset import Dataset, Part
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.model.network_scorer import NetworkScorer
from crossfeed.model.users.timelines import Timelines
from crossfeed.run import Run
from crossfeed.training.loop.random_state import random_state, restore_random_state
from crossfeed.training.loop.trainer import train
from crossfeed.training.step.batches import batches
from crossfeed.training.watch.profile import OPERATORS

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small_dataset(planted_log(users=40), tmp_path_factory.mktemp("data") / "dataset")


def config(**settings: object) -> Config:
    return tiny_config(**{"epochs": 3, "batch_size": 64, "device": "cuda", **settings})


def losses(run: Run) -> np.ndarray:
    return np.array([list(line["losses"].values()) for line in run.metrics()])


def test_a_batch_arrives_as_it_was(data: Dataset) -> None:
    batch = next(batches(data, config(), clicks=data.learned_events, epoch=0))
    there = batch.to(CUDA)
    for field in fields(Timelines):
        arrived = getattr(there.timelines, field.name)
        assert arrived.is_cuda
        assert torch.equal(arrived.cpu(), getattr(batch.timelines, field.name))
    for first, second in zip(batch.groups, there.groups, strict=True):
        assert torch.equal(first.clicks, second.clicks.cpu())
        assert all(torch.equal(a, b.cpu()) for a, b in zip(first.seen, second.seen, strict=True))


def test_random_numbers_go_on_where_they_were() -> None:
    with torch.random.fork_rng([CUDA]):
        torch.manual_seed(3)
        states = random_state(CUDA)
        drawn = torch.rand(5, device=CUDA)
        torch.rand(99, device=CUDA)
        restore_random_state(states, CUDA)
        assert torch.equal(torch.rand(5, device=CUDA), drawn)


def test_random_numbers_of_a_processor_are_gone_on_with_by_seed() -> None:
    with torch.random.fork_rng([CUDA]):
        torch.manual_seed(3)
        states, drawn = random_state(torch.device("cpu")), torch.rand(5, device=CUDA)
        torch.rand(99, device=CUDA)
        restore_random_state(states, CUDA)
        assert torch.equal(torch.rand(5, device=CUDA), drawn)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_on_a_gpu_beats_popularity(
    precision: str, new_in_domain: Dataset, tmp_path: Path
) -> None:
    settings = tiny_config(epochs=12, patience=12, device="cuda", precision=precision)
    run = train(new_in_domain, out=tmp_path / "run", config=settings)
    results = evaluate(run, new_in_domain, baselines=("popularity",))
    popularity = results.baselines["popularity"]
    assert results.micro["ndcg@10"] > 1.3 * popularity.micro["ndcg@10"]


@pytest.mark.parametrize(
    "settings",
    [{}, {"objective": "full-softmax", "gap": "kl"}, {"objective": "binary", "gap": "euclidean"}],
    ids=["softmax", "full-softmax", "binary"],
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_losses_are_those_of_a_processor(
    precision: str, settings: dict[str, object], data: Dataset, tmp_path: Path
) -> None:
    """The draws differ, so the means over an epoch agree as two seeds do."""
    here = config(device="cpu", **settings)
    there = config(precision=precision, **settings)
    runs = [
        train(data, out=tmp_path / name, config=one)
        for name, one in (("here", here), ("there", there))
    ]
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), rel=0.1, abs=0.1)


def stop_after_first(epoch: int, value: float) -> None:
    raise InterruptedError


def test_a_resumed_training_is_the_uninterrupted_one(data: Dataset, tmp_path: Path) -> None:
    whole = train(data, out=tmp_path / "whole", config=config())
    with pytest.raises(InterruptedError):
        train(data, out=tmp_path / "run", config=config(), after_epoch=stop_after_first)
    resumed = train(data, out=tmp_path / "run", resume=True)
    assert losses(resumed) == pytest.approx(losses(whole), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(("first", "then"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_training_goes_on_on_another_device(
    first: str, then: str, data: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(InterruptedError):
        train(data, out=out, config=config(device=first), after_epoch=stop_after_first)
    given = Config.model_validate({"train": {"device": then}})
    run = train(data, out=out, config=given, resume=True)
    assert len(run.metrics()) == 3
    assert np.isfinite(run.scorer().item_vectors).all()


def test_scores_are_those_of_a_processor(data: Dataset, tmp_path: Path) -> None:
    run = train(data, out=tmp_path / "run", config=config(epochs=1))
    scorer = run.scorer()
    histories = data.histories(data.events(Part.TEST), Part.TEST)
    here = scorer.score(histories, 0)
    there = NetworkScorer(data.catalogue, scorer.players.to(CUDA)).score(histories, 0)
    assert there == pytest.approx(here, rel=1e-4, abs=1e-4)


def test_a_profile_has_the_operators_of_the_gpu(data: Dataset, tmp_path: Path) -> None:
    settings = config(epochs=4, batch_size=16)
    run = train(data, out=tmp_path / "run", config=settings, profile=True)
    table = (run.path / OPERATORS).read_text("utf-8")
    assert "Self CUDA" in table and "generator forward" in table
