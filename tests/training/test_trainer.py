"""Whole trainings: determinism, resume, selection, refit, transfer."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import tiny_config

from crossfeed.config import parse_config
from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import ConfigError, OutputError, RunError
from crossfeed.evaluation.baselines.demand import LearnedDemand
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.model.players import Players
from crossfeed.run import Run
from crossfeed.training.loop.state import FitState
from crossfeed.training.loop.trainer import Fit, train


def weights(run: Run, name: str = "best") -> dict[str, torch.Tensor]:
    return dict(run.read_checkpoint(name)["players"])  # type: ignore[arg-type]


def assert_same_weights(one: Run, other: Run, name: str = "best") -> None:
    first, second = weights(one, name), weights(other, name)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def without_times(run: Run) -> list[dict[str, object]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in run.metrics()]


def test_same_seed_same_numbers_and_another_seed_others(last_out: Dataset, tmp_path: Path) -> None:
    one = train(last_out, out=tmp_path / "one", config=tiny_config())
    torch.rand(3)  # the caller's random state has no influence
    two = train(last_out, out=tmp_path / "two", config=tiny_config())
    assert_same_weights(one, two)
    assert without_times(one) == without_times(two)
    other = train(last_out, out=tmp_path / "other", config=tiny_config(seed=1))
    assert not all(torch.equal(v, weights(other)[k]) for k, v in weights(one).items())


def test_training_leaves_the_callers_random_state(last_out: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    train(last_out, out=tmp_path / "run", config=tiny_config(epochs=1))
    assert torch.equal(torch.rand(2), expected)


@pytest.fixture(scope="module")
def finished(last_out: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(last_out, out=tmp_path_factory.mktemp("finished") / "run", config=tiny_config())


def test_a_finished_run_is_left_as_it_is(finished: Run, last_out: Dataset) -> None:
    before = (finished.path / "checkpoints" / "last.pt").stat().st_mtime_ns
    train(last_out, out=finished.path, resume=True)
    assert (finished.path / "checkpoints" / "last.pt").stat().st_mtime_ns == before


def test_resume_begins_where_there_is_nothing(last_out: Dataset, tmp_path: Path) -> None:
    run = train(last_out, out=tmp_path / "run", config=tiny_config(epochs=1), resume=True)
    assert len(run.metrics()) == 1


def test_resume_tells_the_run_where_its_dataset_is_now(last_out: Dataset, tmp_path: Path) -> None:
    shutil.copytree(last_out.path, tmp_path / "dataset")
    config = tiny_config(adversary=False, epochs=1)
    elsewhere = parse_config({"train": {"device": "cpu"}})
    train(Dataset.load(tmp_path / "dataset"), out=tmp_path / "run", config=config)
    shutil.move(tmp_path / "dataset", tmp_path / "moved")
    moved = Dataset.load(tmp_path / "moved")
    train(moved, out=tmp_path / "run", config=elsewhere, resume=True)
    run = Run.open(tmp_path / "run")
    assert run.dataset().path == moved.path
    assert run.config.train.device == "auto"


def test_resume_refuses_another_dataset(finished: Run, new_in_domain: Dataset) -> None:
    with pytest.raises(RunError, match=r"is not what the run .* was trained on"):
        train(new_in_domain, out=finished.path, resume=True)


def test_an_existing_run_is_refused_or_replaced(last_out: Dataset, tmp_path: Path) -> None:
    config = tiny_config(epochs=1)
    train(last_out, out=tmp_path / "run", config=config)
    with pytest.raises(OutputError, match=r"exists already\nhint: .*--overwrite"):
        train(last_out, out=tmp_path / "run", config=config)
    train(last_out, out=tmp_path / "run", config=config, overwrite=True)


def test_best_is_the_best_epoch_not_the_last(last_out: Dataset, tmp_path: Path) -> None:
    """With a step size that ruins the weights, best must be an earlier epoch."""
    config = tiny_config(epochs=8, patience=8, learning_rate=3.0, average=0.0, warmup_epochs=0)
    run = train(last_out, out=tmp_path / "run", config=config)
    values = [line["validation"]["micro"]["ndcg@10"] for line in run.metrics()]
    assert int(np.argmax(values)) < len(values) - 1, "choose settings that overshoot"
    best = evaluate(run, run.dataset(), part=Part.VALIDATION)
    assert best.micro["ndcg@10"] == pytest.approx(max(values), abs=1e-9)


def test_training_stops_after_patience(last_out: Dataset, tmp_path: Path) -> None:
    config = tiny_config(epochs=30, patience=1, learning_rate=0.2, warmup_epochs=0)
    run = train(last_out, out=tmp_path / "run", config=config)
    values = [line["validation"]["micro"]["ndcg@10"] for line in run.metrics()]
    assert len(values) < 30
    assert int(np.argmax(values)) == len(values) - 2


def test_refit_learns_from_all_data_for_the_best_number_of_epochs(
    last_out: Dataset, tmp_path: Path
) -> None:
    run = train(last_out, out=tmp_path / "run", config=tiny_config(), refit=True)
    assert run.refitted
    progress = run.read_checkpoint("refit-last")["progress"]
    values = [line["validation"]["micro"]["ndcg@10"] for line in run.metrics()]
    assert progress["epoch"] == int(np.argmax(values)) + 1
    assert run.scorer(refitted=True).item_vectors.shape == run.scorer().item_vectors.shape
    assert not np.array_equal(run.scorer(refitted=True).item_vectors, run.scorer().item_vectors)


def test_a_refit_needs_no_memory_of_the_training_before(
    last_out: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[weakref.ref[FitState]] = []
    alive: list[int] = []
    go_on = Fit.go_on

    def counted(fit: Fit) -> None:
        states.append(weakref.ref(fit.state))
        alive.append(sum(state() is not None for state in states))
        go_on(fit)

    monkeypatch.setattr(Fit, "go_on", counted)
    train(last_out, out=tmp_path / "run", config=tiny_config(epochs=1), refit=True)
    assert alive == [1, 1]


def test_expand_domains_must_be_domains(last_out: Dataset, tmp_path: Path) -> None:
    config = tiny_config(expand_domains=("films",))
    with pytest.raises(ConfigError, match=r"'films'; the dataset has: articles, shopping, videos"):
        train(last_out, out=tmp_path / "run", config=config)


@pytest.mark.parametrize(
    "train_settings",
    [
        {"proposal_share": 0.0, "reward_weight": 0.0, "gap": "none"},
        {"objective": "binary", "correction": 0.0},
        {"expand_domains": ("videos",), "static_proposal": "uniform"},
        {"average": 0.0, "warmup_epochs": 0},
    ],
    ids=["no adversary", "published", "one expanded", "no warm-up, no average"],
)
def test_every_mode_trains(
    train_settings: dict[str, object], last_out: Dataset, tmp_path: Path
) -> None:
    run = train(last_out, out=tmp_path / "run", config=tiny_config(**train_settings))
    assert np.isfinite(run.scorer().item_vectors).all()


def test_other_domains_lift_a_new_user_above_popularity(
    new_in_domain: Dataset, tmp_path: Path
) -> None:
    """Taste shown elsewhere must decide where the user has never been."""
    config = tiny_config(epochs=12, patience=12)
    run = train(new_in_domain, out=tmp_path / "run", config=config)
    results = evaluate(run, new_in_domain, baselines=("popularity",))
    popularity = results.baselines["popularity"]
    assert results.micro["ndcg@10"] > 1.3 * popularity.micro["ndcg@10"]
    assert results.macro["ndcg@10"] > 1.3 * popularity.macro["ndcg@10"]


def test_metrics_are_json_lines(finished: Run) -> None:
    lines = (finished.path / "metrics.jsonl").read_text("utf-8").splitlines()
    first = json.loads(lines[0])
    assert first["epoch"] == 1
    assert {"discriminator", "generator", "anchor", "gap"} <= first["losses"].keys()
    assert first["validation"]["micro"].keys() >= {"ndcg@10", "recall@10", "auc"}


def test_a_damaged_checkpoint_is_named(last_out: Dataset, tmp_path: Path) -> None:
    run = train(last_out, out=tmp_path / "run", config=tiny_config(epochs=1))
    file = run.path / "checkpoints" / "best.pt"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"best.pt' is damaged"):
        run.scorer()


def test_without_the_adversary_the_generator_stays_as_it_began(
    last_out: Dataset, tmp_path: Path
) -> None:
    config = tiny_config(epochs=2, proposal_share=0.0)
    model = config.model.model_copy(update={"fuse": "none"})
    run = train(last_out, out=tmp_path / "run", config=config.model_copy(update={"model": model}))
    torch.manual_seed(config.train.seed)
    players = Players(last_out.catalogue, model)
    players.begin_with_demand(LearnedDemand(last_out, seed=config.train.seed).function)
    fresh = players.state_dict()
    trained = run.read_checkpoint("best")["players"]
    moved = {name.split(".")[0] for name in fresh if not torch.equal(fresh[name], trained[name])}
    assert moved <= {"discriminator", "personal_share"} and "discriminator" in moved
    assert set(run.metrics()[0]["losses"]) == {"discriminator"}
