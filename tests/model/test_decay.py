"""Weight decay is for what multiplies; biases, and scales that begin at one, have none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crossfeed.config import ModelConfig, TrainConfig
from crossfeed.model.decay import decayed
from crossfeed.model.discriminator import Discriminator
from crossfeed.model.generator import Generator
from crossfeed.model.player import Player
from crossfeed.model.users.networks import NETWORKS
from crossfeed.training.step.optimiser import PlayerOptimiser

RESTING = ("bias", "biases", "norm", "scale", "shift", "own_bias", "shared_bias", "own")
"""Parts of the names of what must not decay."""


def players() -> dict[str, Player]:
    torch.manual_seed(0)
    made: dict[str, Player] = {}
    for name in NETWORKS:
        config = ModelConfig(width=8, heads=2, discriminator=name)
        made[name] = Discriminator(rows=30, domains=3, config=config)
    for name in ("linear", "attention"):
        config = ModelConfig(width=8, heads=2, generator=name)
        made[name] = Generator(rows=30, domains=3, config=config)
    return made


@pytest.mark.parametrize("name", sorted(players()))
def test_biases_and_scales_do_not_decay(name: str) -> None:
    player = players()[name]
    chosen = {id(value) for value in decayed(player)}
    for parameter, value in player.named_parameters():
        resting = (
            not set(RESTING).isdisjoint(parameter.split("."))
            or ".feed_forward.0." in parameter  # a norm in a sequence
            or (parameter.startswith("demand.") and parameter != "demand.hidden.weight")
        )
        assert (id(value) in chosen) != resting, parameter


@pytest.mark.parametrize("name", sorted(players()))
def test_without_a_gradient_only_what_decays_moves(name: str) -> None:
    player = players()[name]
    for value in player.parameters():
        torch.nn.init.constant_(value, 2.0)
        value.grad = torch.zeros_like(value)
    config = TrainConfig(learning_rate=0.1, weight_decay=0.5)
    PlayerOptimiser(player, config, average=None).step()
    chosen = {id(value) for value in decayed(player)}
    for parameter, value in player.named_parameters():
        expected = 2.0 * (1 - 0.1 * 0.5) if id(value) in chosen else 2.0
        found = value.detach().numpy()
        np.testing.assert_allclose(
            found, np.full(value.shape, expected), rtol=1e-6, err_msg=parameter
        )
