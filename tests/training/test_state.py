"""The average of the weights is what its formula says, and is what a checkpoint brings back."""

from __future__ import annotations

import pytest
import torch
from planted import tiny_config

from crossfeed.config import Config
from crossfeed.data.dataset import Dataset
from crossfeed.training.loop.state import FitState

CPU = torch.device("cpu")


def state(dataset: Dataset, config: Config) -> FitState:
    return FitState(dataset.catalogue, config, device=CPU)


def fill(one: FitState, value: float) -> None:
    with torch.no_grad():
        for weight in one.players.parameters():
            weight.fill_(value)


def first(one: FitState) -> float:
    return float(next(one.served.parameters()).detach().flatten()[0])


def test_the_average_by_hand(last_out: Dataset) -> None:
    """Step n keeps min(average, n / (n + 10)), n counting the steps before it; the first copies."""
    one = state(last_out, tiny_config(average=0.1))
    seen = []
    for value in (1.0, 3.0, 5.0):
        fill(one, value)
        one.average()
        seen.append(first(one))
    second = 1 / 11 * 1.0 + 10 / 11 * 3.0
    third = 0.1 * second + 0.9 * 5.0  # 2 / 12 is more than is set
    assert seen == pytest.approx([1.0, second, third])
    assert (
        float(next(one.players.parameters()).detach().flatten()[0]) == 5.0
    )  # training goes on from there


def test_without_an_average_the_players_themselves_are_served(last_out: Dataset) -> None:
    one = state(last_out, tiny_config(average=0.0))
    one.average()
    assert one.served is one.players and "average" not in one.to_checkpoint()


def test_a_checkpoint_brings_the_average_and_its_age_back(last_out: Dataset) -> None:
    one, other = state(last_out, tiny_config()), state(last_out, tiny_config())
    for value in (1.0, 2.0):
        fill(one, value)
        one.average()
    other.restore(one.to_checkpoint())
    for each in (one, other):
        fill(each, 4.0)
        each.average()
    assert first(one) == first(other) != 4.0


def test_the_rate_is_set_for_both_players(last_out: Dataset) -> None:
    one = state(last_out, tiny_config())
    one.set_learning_rate(0.5)
    rates = {
        g["lr"]
        for optimiser in one.optimisers.values()
        for part in optimiser.parts
        for g in part.param_groups
    }
    assert rates == {0.5}
