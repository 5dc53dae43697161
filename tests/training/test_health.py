"""Health is measured as it is defined, and a collapse is seen, named and left behind."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import tiny_config
from toy import toy_dataset
from typer.testing import CliRunner

from crossfeed.cli import app
from crossfeed.config import Config, DataConfig, TrainConfig, load_config
from crossfeed.data.dataset import Dataset, Part
from crossfeed.data.demand import FEATURES
from crossfeed.model.candidates import Proposals, Scores
from crossfeed.training.loop import trainer as fitting
from crossfeed.training.loop.state import FitState
from crossfeed.training.loop.trainer import train
from crossfeed.training.loop.validation import Validation
from crossfeed.training.step.batches import Batch, batches
from crossfeed.training.step.means import Means
from crossfeed.training.step.pool_groups import DomainRows
from crossfeed.training.step.steps import StepResult
from crossfeed.training.watch.alarms import ADVICE, Alarm, find_alarms
from crossfeed.training.watch.health import Health, add_health

HEALTHY = Health(
    separation=0.7,
    distinct_share=0.5,
    entropy={"books": 0.6, "films": 0.4},
    reward_mean=1.0,
    reward_variance=2.0,
    gap=0.1,
    gradient_norms={"discriminator": 1.0, "generator": 1.0},
)
PUBLISHED = load_config(
    preset="published",
    overrides=[
        *("model.width=16", "model.heads=2", "model.dropout=0.1", "train.candidates=8"),
        *("train.batch_size=256", "train.learning_rate=0.01", "train.patience=9"),
    ],
)


def published(**train: object) -> Config:
    return PUBLISHED.model_copy(update={"train": PUBLISHED.train.model_copy(update=train)})


def hand_made(last_out: Dataset) -> tuple[Batch, StepResult]:
    """Return two clicks of one domain of four items, with two candidates each."""
    first = next(batches(last_out, tiny_config(), clicks=last_out.learned_events, epoch=0))
    nothing = (torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    group = DomainRows(
        domains=(0,),
        names=("books",),
        clicks=torch.tensor([0, 1]),
        seen=nothing,
        sample=None,
        rows=slice(0, 2),
        pool=slice(0, 4),
        table_rows=slice(0, 4),
        windows=torch.zeros(2, dtype=torch.long),
        demand=torch.zeros(1, 4, FEATURES),
        static=torch.ones(1, 4),
    )
    # The first row's pool lacks an item and is even; the second holds one item for sure.
    logits = torch.tensor([[0.0, 0.0, 0.0, -torch.inf], [100.0, 0.0, 0.0, 0.0]])
    confidence = logits.log_softmax(dim=1)
    candidates = torch.tensor([[0, 1], [1, 1]])
    proposals = Proposals(
        confidences=(confidence,),
        candidates=candidates,
        candidate_log_confidence=torch.tensor([[-1.0, -1.0], [-2.0, -2.0]]),
        click_log_confidence=torch.zeros(2),
        candidate_log_proposal=torch.zeros(2, 2),
        click_log_proposal=torch.zeros(2),
        expanded=torch.ones(2, dtype=torch.bool),
    )
    scores = Scores(
        candidates=torch.tensor([[0.0, 2.0], [1.0, 1.0]]),
        clicks=torch.tensor([1.0, 1.0]),
        pool=None,
    )
    norms = {"generator": torch.tensor(3.0), "discriminator": torch.tensor(4.0)}
    gaps = torch.tensor([0.5, 1.5])
    return replace(first, groups=(group,)), StepResult(proposals, scores, gaps, {}, norms)


def test_health_by_hand(last_out: Dataset) -> None:
    batch, result = hand_made(last_out)
    means = Means({}, {})
    add_health(means, batch, result)
    health = Health.of(means)
    # Pairs: 1 above 0, 1 below 2, two ties. Rewards: 1, 3, 3, 3.
    assert health.separation == pytest.approx((1 + 0 + 0.5 + 0.5) / 4)
    assert health.distinct_share == pytest.approx(2 / 4)
    assert health.entropy == {"books": pytest.approx((1.0 + 0.0) / 2)}
    assert health.reward_mean == pytest.approx(2.5)
    assert health.reward_variance == pytest.approx(0.75)
    mean_share = (math.exp(-0.5) + math.exp(-1.5)) / 2
    assert health.gap == pytest.approx(-math.log(mean_share))
    assert health.gradient_norms == {"discriminator": 4.0, "generator": 3.0}
    means.clear()
    assert Health.of(means) == Health(None, None, {}, None, None, None, {})


@pytest.mark.parametrize("shape", ["uniform", "popularity"])
@pytest.mark.parametrize("stacked", [False, True])
def test_entropy_of_sampled_pools_is_that_of_the_whole(shape: str, stacked: bool) -> None:
    """Planted: a generator that prefers no item reads 1, one that follows popularity its value."""
    counts = np.maximum(1, np.round(20_000 / np.arange(1, 5_001))).astype(np.int64)
    other = np.full(30, 50)
    # One user clicks every item before the others come.
    clicks = [(0, "large", item, Part.TRAIN) for item in range(5_000)]
    clicks += [(0, "small", item, Part.TRAIN) for item in range(30)]
    clicks += [(user, "large", user, Part.TRAIN) for user in range(1, 41)]
    clicks += [(user, "small", user % 30, Part.TRAIN) for user in range(41, 61)]
    dataset = replace(
        toy_dataset({"large": counts, "small": other}, clicks),
        manifest={"config": DataConfig().model_dump()},
    )
    weights = np.ones(5_030) if shape == "uniform" else np.concatenate([counts, other])
    logits = torch.from_numpy(np.log(weights)).float()
    shares = weights[:5_000] / weights[:5_000].sum()
    expected = -(shares * np.log(shares)).sum() / np.log(5_000)
    config, found = tiny_config(pool_items=1_000, batch_size=60), []
    for epoch in range(20):
        clicked = np.arange(5_030, 5_090)
        (batch,) = batches(dataset, config, clicks=clicked, epoch=epoch, stacked=stacked)
        means = Means({}, {})
        confidences = tuple(
            group.as_masses(
                logits[group.items].unsqueeze(-2).expand(*group.clicks.shape, -1)
            ).log_softmax(-1)
            for group in batch.groups
        )
        nothing = torch.zeros(batch.rows, 2)
        proposals = Proposals(
            confidences, nothing.long(), nothing, nothing[:, 0], nothing, nothing[:, 0], None
        )
        scores = Scores(nothing, nothing[:, 0], None)
        norms = {"generator": torch.zeros(())}
        add_health(means, batch, StepResult(proposals, scores, None, {}, norms))
        found.append(Health.of(means).entropy)
    assert expected == pytest.approx(1.0 if shape == "uniform" else 0.726, abs=1e-3)
    assert np.mean([one["large"] for one in found]) == pytest.approx(expected, abs=0.01)
    assert found[0]["small"] == pytest.approx(1.0, abs=1e-6)  # looked at as a whole


def test_a_healthy_epoch_gives_no_alarm() -> None:
    figures = {"value": 0.2, "best": 0.3, "floor": 0.1}
    assert find_alarms(HEALTHY, metric="micro ndcg@10", **figures) == ()
    nothing = Health(None, None, {}, None, None, None, {})
    assert find_alarms(nothing, metric="micro ndcg@10", **figures) == ()


def test_an_epoch_that_improves_on_all_before_gives_no_alarm() -> None:
    """The first epochs may be worse than popularity, and good candidates hard to tell apart."""
    weak = replace(HEALTHY, separation=0.505, entropy={"books": 0.01})
    assert find_alarms(weak, metric="micro ndcg@10", value=0.08, best=0.07, floor=0.1) == ()
    names = [
        alarm.name
        for alarm in find_alarms(weak, metric="micro ndcg@10", value=0.07, best=0.07, floor=0.1)
    ]
    assert names == ["entropy", "separation", "validation"]


def test_each_sign_of_collapse_has_its_name_and_its_cause() -> None:
    def alarm(health: Health, value: float = 0.2) -> Alarm:
        (found,) = find_alarms(health, metric="micro ndcg@10", value=value, best=0.3, floor=0.1)
        return found

    entropy = alarm(replace(HEALTHY, entropy={"books": 0.6, "films": 0.01}))
    assert entropy.name == "entropy"
    assert "in 1 of 2 domains: entropy 0.010 of 1 in 'films'" in entropy.cause
    separation = alarm(replace(HEALTHY, separation=0.505))
    assert separation.name == "separation" and "50.5% of the pairs" in separation.cause
    validation = alarm(HEALTHY, value=0.05)
    assert validation.name == "validation"
    assert "validation micro ndcg@10 0.0500, popularity 0.1000" in validation.cause
    for found in (entropy, separation, validation):
        assert re.search(r"train\.[a-z_]+", found.advice)


def test_the_published_form_collapses_and_the_default_does_not(
    last_out: Dataset, tmp_path: Path
) -> None:
    collapsed = train(last_out, out=tmp_path / "published", config=published(epochs=4))
    causes = {alarm["name"] for line in collapsed.health() for alarm in line["alarms"]}
    assert "separation" in causes
    assert collapsed.health()[0]["alarms"] == []  # warm-up
    healthy = train(last_out, out=tmp_path / "default", config=tiny_config(epochs=4, patience=4))
    assert [line["alarms"] for line in healthy.health()] == [[]] * 4
    separations = [line["separation"] for line in healthy.health()]
    assert separations[-1] > collapsed.health()[-1]["separation"] + 0.02


def test_every_epoch_has_its_line(last_out: Dataset, tmp_path: Path) -> None:
    run = train(last_out, out=tmp_path / "run", config=tiny_config(epochs=2))
    lines = [json.loads(line) for line in (run.path / "health.jsonl").read_text().splitlines()]
    assert lines == run.health() and [line["epoch"] for line in lines] == [1, 2]
    for line in lines:
        assert set(line["entropy"]) == set(last_out.catalogue.domains)
        assert all(0 < value <= 1 for value in line["entropy"].values())
        assert 0 < line["separation"] < 1 and 0 < line["distinct_share"] <= 1
        assert line["reward_variance"] >= 0
        assert all(norm > 0 for norm in line["gradient_norms"].values())
    assert lines[0]["gap"] is None and lines[1]["gap"] >= 0  # warm-up has no gap loss


def test_without_a_generator_only_the_discriminator_is_measured(
    last_out: Dataset, tmp_path: Path
) -> None:
    run = train(last_out, out=tmp_path / "run", config=tiny_config(adversary=False, epochs=1))
    (line,) = run.health()
    assert line["entropy"] == {} and line["reward_mean"] is None
    assert set(line["gradient_norms"]) == {"discriminator"}


def always_alarmed(monkeypatch: pytest.MonkeyPatch, *, after: int = 0) -> list[int]:
    """Make every epoch after the first `after` ones a collapsed one."""
    calls: list[int] = []

    def alarms(*_: object, **__: object) -> tuple[Alarm, ...]:
        calls.append(len(calls) + 1)
        return (Alarm("entropy", "planted"),) if len(calls) > after else ()

    monkeypatch.setattr(fitting, "find_alarms", alarms)
    return calls


def test_a_collapse_is_rolled_back_with_half_the_rate_three_times(
    last_out: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    always_alarmed(monkeypatch, after=1)
    config = tiny_config(epochs=9, patience=9, on_collapse="roll-back")
    run = train(last_out, out=tmp_path / "run", config=config)
    lines = run.health()
    assert [len(line["alarms"]) for line in lines] == [0, 0, 1, 1, 1, 1]
    last = run.read_checkpoint("last")
    assert last["progress"]["roll_backs"] == 3
    for optimiser in last["optimisers"].values():
        groups = [group for part in optimiser["parts"] for group in part["param_groups"]]
        assert {group["lr"] for group in groups} == {0.01 / 8}
    # Each collapsed epoch began at the same healthy weights, with less and less of a step.
    moved = [line["gradient_norms"]["discriminator"] for line in lines[2:]]
    assert all(one > 0 for one in moved)


def test_after_a_roll_back_the_weights_are_the_healthy_ones(
    last_out: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    always_alarmed(monkeypatch, after=1)
    saved: list[dict[str, torch.Tensor]] = []
    save = fitting.Fit._save

    def keep(fit: fitting.Fit) -> None:
        saved.append(
            {name: value.clone() for name, value in fit.state.players.state_dict().items()}
        )
        save(fit)

    monkeypatch.setattr(fitting.Fit, "_save", keep)
    config = tiny_config(epochs=4, patience=9, on_collapse="roll-back")
    run = train(last_out, out=tmp_path / "run", config=config)
    healthy = run.read_checkpoint("healthy")["players"]

    def same(one: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(value, healthy[name]) for name, value in one.items())

    assert [same(one) for one in saved] == [False, True, True, False]  # the last epoch is left


def test_a_refit_repeats_the_epochs_and_rates_behind_the_best_weights(
    last_out: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epoch 3 is rolled back, so that the weights of epoch 4 come from three epochs."""
    collapsed = iter([False, True, False])  # in epochs 2 to 4; 1 is the warm-up

    def alarms(*_: object, **__: object) -> tuple[Alarm, ...]:
        return (Alarm("entropy", "planted"),) if next(collapsed) else ()

    monkeypatch.setattr(fitting, "find_alarms", alarms)
    rates: list[float] = []
    step = FitState.set_learning_rate

    def told(state: FitState, rate: float) -> None:
        rates.append(rate)
        step(state, rate)

    monkeypatch.setattr(FitState, "set_learning_rate", told)
    # Popularity is measured after epoch 2.
    values = iter([0.1, 0.2, 0.15, 0.3, 0.4])
    monkeypatch.setattr(Validation, "selected", lambda *_: next(values))
    config = tiny_config(epochs=4, on_collapse="roll-back")
    run = train(last_out, out=tmp_path / "run", config=config, refit=True)
    assert [len(line["alarms"]) for line in run.health()] == [0, 0, 1, 0]
    refit = run.read_checkpoint("refit-last")["progress"]
    assert refit["epoch"] == 3
    assert rates == [0.005, 0.01, 0.01, 0.005]  # the roll-back, then the refit's epochs


def test_a_warning_changes_nothing(
    last_out: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train(last_out, out=tmp_path / "plain", config=tiny_config(epochs=3))
    always_alarmed(monkeypatch)
    warned = train(last_out, out=tmp_path / "warned", config=tiny_config(epochs=3))
    assert [line["losses"] for line in plain.metrics()] == [
        line["losses"] for line in warned.metrics()
    ]
    assert not warned.has_checkpoint("healthy")


def test_alarms_are_shown_live(last_out: Dataset, tmp_path: Path) -> None:
    values = ("model.width=16", "train.epochs=3", "train.batch_size=256", "train.candidates=8")
    settings = ["--preset=published", *(f"--set={value}" for value in values)]
    shown = CliRunner().invoke(
        app,
        ["train", str(last_out.path), "--out", str(tmp_path / "run"), *settings],
    )
    assert shown.exit_code == 0, shown.output
    assert "health: separation 0." in shown.stderr
    assert (
        "alarm (separation): the discriminator cannot tell clicks from candidates" in shown.stderr
    )
    assert "hint: leave train.correction at 1" in shown.stderr


def test_advice_names_settings_that_there_are() -> None:
    for advice in ADVICE.values():
        for name in re.findall(r"train\.([a-z_]+)", advice):
            assert name in TrainConfig.model_fields
