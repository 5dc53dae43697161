"""Learned demand: what recent clicks say is learned from the log, the same for the same seed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from toy import living_dataset, toy_dataset

from crossfeed.config import DataConfig
from crossfeed.data.dataset import Dataset, Part
from crossfeed.data.demand import DemandHistory
from crossfeed.evaluation.baselines import demand as module
from crossfeed.evaluation.baselines.demand import LearnedDemand
from crossfeed.scorer import Histories


def fashions(clicks: int = 4000, items: int = 40, seed: int = 0) -> Dataset:
    """Return a log in which each day has a fashion of its own, among items clicked as often."""
    rng = np.random.default_rng(seed)
    hours = np.sort(rng.integers(0, 24 * 80, clicks))
    fashion = rng.permutation(np.repeat(np.arange(items), 2))[hours // 24]
    item = np.where(rng.random(clicks) < 0.6, fashion, rng.integers(0, items, clicks))
    made = toy_dataset(
        {"all": np.bincount(item, minlength=items).tolist()},
        [(user, "all", int(one), Part.TRAIN) for user, one in enumerate(item)],
    )
    return dataclasses.replace(
        made,
        manifest={"config": DataConfig().model_dump(mode="json")},
        event_time=(3_600_000 * hours).astype(np.int64),
        event_part=np.where(np.arange(clicks) < 0.8 * clicks, 0, 1).astype(np.uint8),
    )


def mean_rank(dataset: Dataset, score: object) -> float:
    """Return the mean rank of the validation's clicks, 0 for the first."""
    ranks = []
    for event in dataset.events(Part.VALIDATION)[::5]:
        moment = dataset.moment(int(dataset.event_time[event]), Part.VALIDATION)
        scores = score(moment)  # type: ignore[operator]
        ranks.append(int((scores > scores[dataset.event_item[event]]).sum()))
    return float(np.mean(ranks))


def test_what_is_in_fashion_is_learned() -> None:
    dataset = fashions()
    baseline = LearnedDemand(dataset)
    nobody = Histories.of([[]])
    total = mean_rank(dataset, lambda moment: moment.demand(0)[:, 9])
    learned = mean_rank(dataset, lambda moment: baseline.score(nobody, 0, moment)[0])
    assert total > 15  # popularity in all says about nothing: 19.5 is chance
    assert learned < 0.6 * total


def test_the_score_is_the_same_for_every_user() -> None:
    dataset = living_dataset()
    baseline = LearnedDemand(dataset)
    moment = dataset.end(Part.TRAIN)
    for domain, size in enumerate((30, 12, 8)):
        scores = baseline.score(Histories.of([[0], [], [31, 1]]), domain, moment)
        assert scores.shape == (3, size)
        np.testing.assert_array_equal(scores, np.tile(scores[0], (3, 1)))
        assert len(np.unique(scores[0])) > 1
    assert baseline.name == "demand"


def test_the_same_seed_gives_the_same_function_and_no_other_random_number() -> None:
    dataset = living_dataset()
    states = []
    for seed, before in ((3, 1), (3, 2), (4, 1)):
        torch.manual_seed(before)
        np.random.seed(before)
        expected = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
        states.append(LearnedDemand(dataset, seed=seed).function.state_dict())
        assert torch.equal(torch.get_rng_state(), expected[0])
        assert np.random.get_state()[1].tolist() == expected[1]  # type: ignore[index]
    first, again, other = states
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["linear"], other["linear"])


def test_the_range_is_that_of_items_that_existed() -> None:
    function = LearnedDemand(living_dataset()).function
    assert not any(parameter.requires_grad for parameter in function.parameters())
    assert bool((function.least <= function.most).all())
    assert float(function.least[9]) > -20  # nothing of an item without a click
    assert float(function.most[9]) <= 0


def test_windows_that_are_padded_together_teach_what_they_teach_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = living_dataset()
    together = LearnedDemand(dataset).function.state_dict()
    monkeypatch.setattr(module, "_CELLS", 1)
    alone = LearnedDemand(dataset).function.state_dict()
    for name, value in together.items():
        torch.testing.assert_close(alone[name], value, rtol=1e-3, atol=1e-3, msg=name)


def test_a_sample_of_a_large_pool_teaches_about_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = fashions()
    nobody = Histories.of([[]])
    whole = LearnedDemand(dataset)
    monkeypatch.setattr(module, "_ITEMS", 12)
    sampled = LearnedDemand(dataset)
    found = [
        mean_rank(dataset, lambda moment, one=one: one.score(nobody, 0, moment)[0])
        for one in (whole, sampled)
    ]
    assert found[1] == pytest.approx(found[0], rel=0.1)


@pytest.mark.parametrize(
    "times", [np.zeros(20, np.int64), np.arange(20)], ids=["at one time", "each item once"]
)
def test_nothing_to_learn_gives_zero(times: np.ndarray) -> None:
    items = range(20) if times.any() else [0] * 20
    made = toy_dataset({"all": [1] * 20}, [(u, "all", i, Part.TRAIN) for u, i in enumerate(items)])
    dataset = dataclasses.replace(made, event_time=times.astype(np.int64))
    moment = dataset.end(Part.TRAIN)
    assert not LearnedDemand(dataset).score(Histories.of([[]]), 0, moment).any()


def test_validation_teaches_nothing() -> None:
    """Neither as a target nor as demand."""
    dataset = fashions()
    rng = np.random.default_rng(0)
    held = dataset.event_part != Part.TRAIN
    other = dataclasses.replace(
        dataset,
        event_item=np.where(held, rng.integers(0, 40, len(held)), dataset.event_item),
    )
    first, second = (LearnedDemand(one).function.state_dict() for one in (dataset, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_only_items_that_existed_before_a_window_are_weighed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset, asked = living_dataset(), []
    original = DemandHistory.demand

    def noted(history: DemandHistory, places: np.ndarray, before: np.ndarray) -> object:
        asked.append(int(before))
        assert bool((history.clicks(places, before) > 0).all())
        return original(history, places, before)

    monkeypatch.setattr(DemandHistory, "demand", noted)
    LearnedDemand(dataset)
    assert len(set(asked)) > 20
