"""What the multi-domain networks promise, and what their layers compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from planted import planted_log, tiny_config

from crossfeed.config import DataConfig, ModelConfig
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.model.discriminator import Discriminator
from crossfeed.model.users.networks import NETWORKS
from crossfeed.model.users.networks.layers import DomainLinear, mix
from crossfeed.model.users.networks.star import STARNetwork
from crossfeed.model.users.timelines import Timelines, build_timelines
from crossfeed.scorer import Catalogue, Histories
from crossfeed.training.loop.trainer import train

CATALOGUE = Catalogue(
    domains=("a", "b", "c"), offsets=np.array([0, 10, 20, 30]), trained=np.array([10, 10, 10])
)
CONFIG = ModelConfig(width=8, heads=2, dropout=0)


def timelines(*domains: int) -> Timelines:
    histories = Histories.of([[1, 2, 12, 13, 25, 26] for _ in domains])
    return build_timelines(histories, np.array(domains), catalogue=CATALOGUE, config=CONFIG)


def discriminator(name: str) -> Discriminator:
    torch.manual_seed(0)
    config = CONFIG.model_copy(update={"discriminator": name})
    return Discriminator(rows=30, domains=3, config=config)


def test_domain_linear_is_one_linear_layer_per_domain() -> None:
    torch.manual_seed(0)
    layer = DomainLinear(3, 4, 2)
    torch.nn.init.normal_(layer.bias)
    rows, domains = torch.randn(5, 4), torch.tensor([2, 0, 2, 2, 0])
    expected = [layer.weight[d] @ row + layer.bias[d] for row, d in zip(rows, domains, strict=True)]
    torch.testing.assert_close(layer(rows, domains), torch.stack(expected))
    assert layer(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)).shape == (0, 2)


def test_a_gate_mixes_experts() -> None:
    experts = torch.tensor([[[1.0, 0.0], [0.0, 4.0]]])  # one row, two experts
    logits = torch.tensor([[0.0, np.log(3.0)]], dtype=torch.float32)
    torch.testing.assert_close(mix(experts, logits), torch.tensor([[0.25, 3.0]]))


def test_all_domains_of_a_star_begin_alike() -> None:
    torch.manual_seed(0)
    layer = STARNetwork(3, CONFIG).hidden
    rows = torch.randn(3, 8)
    first = layer(rows, torch.tensor([0, 0, 0]))
    torch.testing.assert_close(first, layer(rows, torch.tensor([0, 1, 2])))
    torch.testing.assert_close(first, rows @ layer.shared.T)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_learns_and_the_target_decides(name: str) -> None:
    player = discriminator(name)
    users = player.users(timelines(0, 1, 2))
    assert users.shape == (3, 8)
    assert not torch.allclose(users[0], users[1])
    # Not the plain sum: a norm at the end of a network would give it no gradient.
    (users * torch.randn_like(users)).sum().backward()
    without = [
        parameter_name
        for parameter_name, parameter in player.network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    # A softmax does not change when the same is added to all its logits.
    assert set(without) <= {"encoder.pooling.attention.bias"}


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "translation"])
def test_what_is_a_domains_own_learns_from_its_rows_alone(name: str) -> None:
    player = discriminator(name)
    player.users(timelines(1, 1)).square().sum().backward()
    own = [
        parameter.grad
        for module in player.network.modules()
        for parameter in module.parameters(recurse=False)
        if parameter.ndim == 3  # (D, outputs, inputs)
    ]
    assert own
    for gradient in own:
        assert gradient is not None
        assert gradient[1].any() and not gradient[0].any() and not gradient[2].any()


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_learns_the_planted_answer(name: str, tmp_path: Path) -> None:
    config = tiny_config(epochs=6, patience=6)
    model = config.model.model_copy(update={"discriminator": name, "fuse": "none"})
    data = DataConfig(split="new-in-domain", min_domain_events=1)
    dataset = prepare(planted_log(), out=tmp_path / "data", config=data)
    run = train(dataset, out=tmp_path / "run", config=config.model_copy(update={"model": model}))
    results = evaluate(run, dataset, baselines=["popularity"])
    assert results.micro["auc"] > results.baselines["popularity"].micro["auc"] + 0.1
