"""What demand says about an item: the learned function, and how the players begin with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import tiny_config
from toy import RandomMoment

from crossfeed.config import Config, ModelConfig
from crossfeed.data.dataset import Dataset
from crossfeed.data.demand import FEATURES
from crossfeed.model.demand import DemandFunction
from crossfeed.model.network_scorer import NetworkScorer
from crossfeed.model.players import Players
from crossfeed.scorer import Catalogue, Histories
from crossfeed.training.loop.state import FitState
from crossfeed.training.step.batches import batches
from crossfeed.training.step.steps import train_step

CATALOGUE = Catalogue(("a", "b"), offsets=np.array([0, 4, 9]), trained=np.array([4, 3]))
BOTH = torch.tensor([0, 1])


def with_range(least: float, most: float, *, domains: int = 2) -> DemandFunction:
    """Return a function that does not scale; its weights are zero but for the hidden layer's."""
    torch.manual_seed(0)
    made = DemandFunction(domains=domains)
    made.least.fill_(least)
    made.most.fill_(most)
    return made


def features(**values: float) -> torch.Tensor:
    """Return the (1, 1, F) features of one item: zero, but for those named `f3=...`."""
    found = torch.zeros(1, 1, FEATURES)
    for name, value in values.items():
        found[..., int(name[1:])] = value
    return found


def value(function: DemandFunction, demand: torch.Tensor, domain: int = 0) -> float:
    with torch.no_grad():
        return float(function(demand, torch.tensor([domain])).squeeze())


def test_it_is_zero_until_it_has_learned() -> None:
    found = with_range(-20, 20)(torch.randn(2, 3, 5, FEATURES), BOTH)
    assert found.shape == (2, 3, 5)
    assert not found.any()


def test_the_straight_part_is_the_shared_one_and_the_domains_own() -> None:
    function = with_range(-20, 20)
    with torch.no_grad():
        function.linear[3], function.linear[5] = 2.0, 0.5
        function.linear_of_domain[1, 3] = -3.0
    demand = features(f3=4.0, f5=-2.0)
    assert value(function, demand, 0) == pytest.approx(2 * 4 - 0.5 * 2)
    assert value(function, demand, 1) == pytest.approx((2 - 3) * 4 - 0.5 * 2)


def test_the_bent_part_is_a_tanh_with_the_domains_own_shift() -> None:
    function = with_range(-20, 20)
    with torch.no_grad():
        function.hidden.weight.zero_()
        function.hidden.bias.zero_()
        function.hidden.weight[7, 2], function.hidden.bias[7] = 0.5, 0.25
        function.shift_of_domain[1, 7] = -1.0
        function.output[7] = 3.0
    assert value(function, features(f2=1.5), 0) == pytest.approx(3 * np.tanh(1.0), rel=1e-6)
    assert value(function, features(f2=1.5), 1) == pytest.approx(0.0, abs=1e-6)


def test_demand_is_clipped_to_the_range_that_training_saw_and_scaled() -> None:
    function = DemandFunction(domains=1)
    seen = torch.zeros(4, FEATURES)
    seen[:, 0] = torch.tensor([1.0, 2.0, 3.0, 6.0])  # mean 3, deviation sqrt(3.5)
    function.fit_range(seen)
    with torch.no_grad():
        function.linear[0] = 1.0
    scale = 3.5**0.5
    assert value(function, features(f0=2.0)) == pytest.approx(-1 / scale)
    assert value(function, features(f0=-50.0)) == pytest.approx(-2 / scale)
    assert value(function, features(f0=50.0)) == pytest.approx(3 / scale)
    assert float(function.scale[1]) == pytest.approx(1e-3)  # a feature that never changes
    with torch.no_grad():
        function.linear[1] = 1.0
    assert value(function, features(f0=3.0, f1=50.0)) == pytest.approx(0.0)


def test_many_moments_of_many_domains_are_each_alone() -> None:
    function = with_range(-20, 20, domains=3)
    for parameter in function.parameters():
        torch.nn.init.normal_(parameter)
    demand, domains = torch.randn(2, 4, 5, FEATURES), torch.tensor([2, 0])
    together = function(demand, domains)
    for place, domain in enumerate(domains.tolist()):
        for moment in range(4):
            for item in range(5):
                alone = value(function, demand[place, moment, item].view(1, 1, -1), domain)
                assert float(together[place, moment, item].detach()) == pytest.approx(
                    alone, abs=1e-4
                )


def test_a_domain_teaches_the_shared_part_and_its_own() -> None:
    function = with_range(-20, 20, domains=3)
    torch.nn.init.ones_(function.output)
    function(torch.randn(1, 6, FEATURES), torch.tensor([1])).exp().sum().backward()
    for name, parameter in function.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    for own in (function.linear_of_domain, function.shift_of_domain):
        assert own.grad is not None
        assert own.grad[1].any() and not own.grad[0].any() and not own.grad[2].any()


def learned() -> DemandFunction:
    function = with_range(-3, 3)
    for parameter in function.parameters():
        torch.nn.init.normal_(parameter)
    function.scale.fill_(2.0)
    return function


@pytest.mark.parametrize(("fuse", "factor"), [("none", 1), ("residual", 2), ("sum", 1)])
def test_players_begin_with_what_demand_alone_says(fuse: str, factor: int) -> None:
    players = Players(CATALOGUE, ModelConfig(width=8, heads=2, fuse=fuse))
    function, moment = learned(), RandomMoment(CATALOGUE)
    players.begin_with_demand(function)
    scorer = NetworkScorer(CATALOGUE, players)
    for domain in (0, 1):
        demand = torch.from_numpy(moment.demand(domain)).float().unsqueeze(0)
        with torch.no_grad():
            expected = factor * function(demand, torch.tensor([domain]))[0].numpy()
        np.testing.assert_allclose(scorer.item_biases(domain, moment), expected, rtol=1e-5)
        np.testing.assert_allclose(
            scorer.confidence_biases(domain, moment), expected / factor, rtol=1e-5
        )


def test_a_copy_of_the_function_moves_alone() -> None:
    players, function = Players(CATALOGUE, ModelConfig(width=8, heads=2)), learned()
    players.begin_with_demand(function)
    with torch.no_grad():
        players.generator.demand.linear.add_(1.0)
    assert torch.equal(players.discriminator.demand.linear, function.linear)
    assert not torch.equal(players.generator.demand.linear, function.linear)


def test_the_average_begins_with_it_too() -> None:
    config = tiny_config(average=0.9)
    state, function = FitState(CATALOGUE, config, device=torch.device("cpu")), learned()
    state.begin_with_demand(function)
    for players in (state.players, state.served):
        for player in (players.discriminator, players.generator):
            for name, kept in function.state_dict().items():
                assert torch.equal(player.demand.state_dict()[name], kept), name


def with_model(config: Config, **model: object) -> Config:
    tree = {**config.model.model_dump(), **model}
    return Config.model_validate({"model": tree, "train": config.train.model_dump()})


@pytest.mark.parametrize("dense_items", [0, 10**6], ids=["by rows", "whole"])
@pytest.mark.parametrize("setting", ["demand", "id_bias"])
def test_what_is_turned_off_stays_zero(setting: str, dense_items: int, last_out: Dataset) -> None:
    base = tiny_config(dense_items=dense_items, batch_size=200, weight_decay=0.1)
    config = with_model(base, **{"demand": True, "id_bias": True, setting: False})
    state = FitState(last_out.catalogue, config, device=torch.device("cpu"))
    state.begin_with_demand(with_range(-20, 20, domains=3))
    for batch in batches(last_out, config, clicks=last_out.learned_events, epoch=0):
        train_step(state.players, state.optimisers, batch, config=config, expanded=[True] * 3)
        state.average()
    for players in (state.players, state.served):
        for player in (players.discriminator, players.generator):
            zero = [player.layer.biases]
            moved = [player.demand.linear, player.demand.linear_of_domain, player.demand.output]
            if setting == "demand":
                zero, moved = moved, zero
            assert not any(one.any() for one in zero)
            assert all(one.any() for one in moved)
    assert (
        FitState(last_out.catalogue, config, device=torch.device("cpu")).restore(
            state.to_checkpoint()
        )
        is None
    )


def test_without_demand_players_do_not_begin_with_it() -> None:
    players = Players(CATALOGUE, ModelConfig(width=8, heads=2, demand=False))
    players.begin_with_demand(learned())
    scorer = NetworkScorer(CATALOGUE, players)
    assert not scorer.item_biases(0, RandomMoment(CATALOGUE)).any()


def test_scores_follow_the_moment() -> None:
    """Two moments of the same users: the difference is that of demand, the same for all."""
    players = Players(CATALOGUE, ModelConfig(width=8, heads=2))
    players.begin_with_demand(learned())
    scorer = NetworkScorer(CATALOGUE, players)
    histories = Histories.of([[0, 5], [], [1, 2, 6]])
    moments = [RandomMoment(CATALOGUE, seed=seed) for seed in (1, 2)]
    first, second = (scorer.score(histories, 1, moment) for moment in moments)
    biases = [scorer.item_biases(1, moment) for moment in moments]
    expected = np.tile(biases[1] - biases[0], (3, 1))
    np.testing.assert_allclose(second - first, expected, atol=1e-5)
    assert np.abs(expected).max() > 0.1
