"""Segment operations, and what must not change a user's vector."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from toy import RandomMoment

from crossfeed.config import ModelConfig
from crossfeed.model.items.layer import ItemLayer
from crossfeed.model.network_scorer import NetworkScorer
from crossfeed.model.players import Players
from crossfeed.model.users.dropout import Dropout
from crossfeed.model.users.encoder import TimelineEncoder, segment_softmax, segment_sum
from crossfeed.model.users.linear import LinearEncoder
from crossfeed.model.users.networks import NETWORKS
from crossfeed.model.users.timelines import Timelines, build_timelines
from crossfeed.scorer import Catalogue, Histories, Scorer, VectorScorer

CATALOGUE = Catalogue(
    domains=("a", "b", "c"), offsets=np.array([0, 10, 20, 30]), trained=np.array([10, 8, 10])
)
MOMENT = RandomMoment(CATALOGUE)
HISTORIES = Histories.of([[1, 12, 5], [], [29, 28, 27, 11, 3, 4], [7]])


KINDS = [
    *(("translation", fuse, "linear") for fuse in ("none", "residual", "sum")),
    *((name, "sum", "linear") for name in NETWORKS if name != "translation"),
    ("translation", "sum", "attention"),
]


@pytest.fixture(params=KINDS, ids="-".join)
def scorer(request: pytest.FixtureRequest) -> NetworkScorer:
    torch.manual_seed(0)
    discriminator, fuse, generator = request.param
    config = ModelConfig(
        width=8, heads=2, discriminator=discriminator, fuse=fuse, generator=generator
    )
    players = Players(CATALOGUE, config)
    for parameter in players.parameters():  # zero-initialised ones would hide mistakes
        torch.nn.init.normal_(parameter, std=0.5)
    return NetworkScorer(CATALOGUE, players)


def test_segment_softmax_is_softmax_of_each_segment() -> None:
    logits = torch.tensor([[1.0], [2.0], [500.0], [-500.0], [3.0]])
    segments = torch.tensor([0, 0, 2, 2, 0])
    weights = segment_softmax(logits, segments, 3)
    first = torch.tensor([1.0, 2.0, 3.0]).softmax(0)
    torch.testing.assert_close(weights[[0, 1, 4], 0], first)
    assert weights[[2, 3], 0].tolist() == [1.0, 0.0]


def test_segment_sum_weighs_each_head_apart() -> None:
    weights = torch.tensor([[1.0, 10.0], [2.0, 20.0]])
    values = torch.tensor([[1.0, 1.0, 1.0, 1.0], [3.0, 3.0, 3.0, 3.0]])
    summed = segment_sum(weights, values, torch.tensor([1, 1]), 2)
    assert summed.tolist() == [[0.0] * 4, [7.0, 7.0, 70.0, 70.0]]


def test_batch_is_single_whatever_the_padding(scorer: NetworkScorer) -> None:
    domains = np.array([1, 0, 2, 1])
    together = scorer.user_vectors(HISTORIES, domains)
    for row in range(len(HISTORIES)):
        alone = scorer.user_vectors(HISTORIES.rows_between(row, row + 1), domains[row : row + 1])
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)


def test_training_by_rows_of_like_width_gives_the_same_vectors() -> None:
    """Rows that know 1 to 5 domains are padded apart in training and together in serving."""
    torch.manual_seed(0)
    catalogue = Catalogue(
        domains=tuple("abcde"), offsets=np.arange(0, 60, 10), trained=np.full(5, 10)
    )
    encoder = TimelineEncoder(domains=5, config=ModelConfig(width=8, heads=2, dropout=0.0))
    table = torch.nn.Embedding(50, 8)
    histories = Histories.of([[10 * domain for domain in range(n)] for n in (3, 1, 5, 2, 1, 4, 0)])
    timelines = build_timelines(
        histories, np.array([4, 0, 2, 1, 1, 0, 3]), catalogue=catalogue, config=ModelConfig()
    )
    training = encoder(timelines, table)
    torch.testing.assert_close(training, encoder.eval()(timelines, table))


def test_the_linear_encoder_by_hand() -> None:
    torch.manual_seed(0)
    encoder = LinearEncoder(domains=3, config=ModelConfig(width=4, heads=2)).eval()
    table = torch.nn.Embedding(30, 4)
    with torch.no_grad():
        encoder.log_weights[1, 0] = 2.0
        encoder.target.weight.normal_()
    timelines = _timelines(ModelConfig())
    users = encoder(timelines, table)
    first, target = table.weight, encoder.target.weight[0]
    # HISTORIES: items 1 and 5 of domain a and 12 of b; none; one item of a.
    clicks = (first[1] + first[5] + math.exp(2.0) * first[12]) / math.sqrt(3)
    torch.testing.assert_close(users[0], encoder.output(clicks + target))
    torch.testing.assert_close(users[1], encoder.output(target))
    torch.testing.assert_close(users[3], encoder.output(first[7] + target))


def test_a_token_knows_of_how_many_items_it_was_made() -> None:
    """The mean of equal items is the same, and yet a user with more of them is another one."""
    torch.manual_seed(0)
    encoder = TimelineEncoder(domains=3, config=ModelConfig(width=8, heads=2)).eval()
    torch.nn.init.zeros_(encoder.pooling.recency.weight)
    table = torch.nn.Embedding(30, 8)
    timelines = build_timelines(
        Histories.of([[4], [4, 4, 4, 4]]),
        np.zeros(2, int),
        catalogue=CATALOGUE,
        config=ModelConfig(),
    )
    once, often = encoder(timelines, table)
    torch.testing.assert_close(once, often)
    torch.nn.init.normal_(encoder.pooling.count.weight)
    once, often = encoder(timelines, table)
    assert not torch.allclose(once, often)


def test_score_is_user_times_item_plus_bias(scorer: NetworkScorer) -> None:
    users = scorer.user_vectors(HISTORIES, np.full(4, 1))
    expected = users @ CATALOGUE.of_all_items(scorer.item_vectors)[10:20].T
    expected = expected + scorer.item_biases(1, MOMENT)
    np.testing.assert_allclose(scorer.score(HISTORIES, 1, MOMENT), expected, atol=1e-5)
    assert isinstance(scorer, Scorer) and isinstance(scorer, VectorScorer)


@pytest.mark.parametrize(("fuse", "share"), [("sum", 0.5), ("residual", 1.0)])
def test_the_fused_score_is_the_mean_of_both_players_or_their_sum(fuse: str, share: float) -> None:
    torch.manual_seed(0)
    players = Players(CATALOGUE, ModelConfig(width=8, heads=2, fuse=fuse))
    for parameter in players.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    scorer = NetworkScorer(CATALOGUE, players)
    fused = scorer.score(HISTORIES, 1, MOMENT)
    timelines = build_timelines(
        HISTORIES, np.ones(4, np.int64), catalogue=CATALOGUE, config=players.config
    )
    demand = torch.from_numpy(MOMENT.demand(1)).float().unsqueeze(0)
    expected = torch.zeros(4, 10)
    with torch.no_grad():
        for player in (players.discriminator, players.generator):
            expected += player.demand(demand, torch.tensor([1]))
            expected[:, :8] += player.users(timelines) @ player.layer.vectors.weight[10:18].T
            expected[:, :8] += player.layer.biases[10:18]
    np.testing.assert_allclose(fused, (share * expected).numpy(), rtol=1e-5, atol=1e-4)
    generators = players.generator.layer.biases[10:18].detach().numpy()
    found = scorer.confidence_biases(1, MOMENT)[:8] - generators
    of_demand = players.generator.demand(demand, torch.tensor([1]))[0, :8].detach().numpy()
    np.testing.assert_allclose(found, of_demand, atol=1e-4)


def test_an_item_without_a_row_has_demand_alone(scorer: NetworkScorer) -> None:
    """The last two items of the second domain have no row: no user changes their scores."""
    scores = scorer.score(HISTORIES, 1, MOMENT)
    np.testing.assert_array_equal(scores[:, 8:], np.tile(scores[:1, 8:], (4, 1)))
    assert (scores[0, :8] != scores[2, :8]).all()
    assert scorer.item_vectors.shape[0] == 28
    assert not CATALOGUE.of_all_items(scorer.item_vectors)[18:20].any()
    demand = torch.from_numpy(MOMENT.demand(1)[8:]).float().unsqueeze(0)
    players, fused = scorer.players, scorer.config.fused
    sides = [players.discriminator, *([players.generator] if fused else [])]
    with torch.no_grad():
        alone = sum(side.demand(demand, torch.tensor([1]))[0].numpy() for side in sides)
    expected = alone * scorer.config.output_share
    np.testing.assert_allclose(scorer.item_biases(1, MOMENT)[8:], expected, rtol=1e-4, atol=1e-5)


def test_histories_are_read_without_items_that_have_no_row(scorer: NetworkScorer) -> None:
    domains = np.array([1, 0, 2, 1])
    others = Histories.of([[1, 18, 12, 5], [19, 18], [29, 28, 27, 11, 19, 3, 4, 18], [7]])
    np.testing.assert_array_equal(
        scorer.user_vectors(others, domains), scorer.user_vectors(HISTORIES, domains)
    )


def test_several_pools_at_once_are_slices_and_so_are_their_gradients() -> None:
    torch.manual_seed(0)
    layer = ItemLayer(rows=10, config=ModelConfig(width=4, id_bias=True))
    slices = [slice(1, 3), slice(3, 4), slice(6, 9)]
    weights = torch.arange(10.0)
    for pool, (vectors, biases) in zip(slices, layer.pools(slices), strict=True):
        torch.testing.assert_close(vectors, layer.vectors.weight[pool])
        torch.testing.assert_close(biases, layer.biases[pool])
    losses = [
        (weights[pool] @ vectors).sum() + weights[pool] @ biases
        for pool, (vectors, biases) in zip(slices, layer.pools(slices), strict=True)
    ]
    torch.stack(losses).sum().backward()
    expected = torch.tensor([0.0, 1, 2, 3, 0, 0, 6, 7, 8, 0])
    torch.testing.assert_close(layer.biases.grad, expected)
    torch.testing.assert_close(layer.vectors.weight.grad, expected.unsqueeze(1).expand(-1, 4))


def test_state_rebuilds_the_same_scores(scorer: NetworkScorer) -> None:
    loaded = NetworkScorer.from_state(CATALOGUE, scorer.config, scorer.state())
    np.testing.assert_array_equal(
        loaded.score(HISTORIES, 0, MOMENT), scorer.score(HISTORIES, 0, MOMENT)
    )


def test_no_history_is_still_scored(scorer: NetworkScorer) -> None:
    assert np.isfinite(scorer.score(Histories.of([[]]), 2, MOMENT)).all()
    assert scorer.user_vectors(Histories.of([]), np.zeros(0, np.int64)).shape[0] == 0


def test_dropout_keeps_the_mean_and_drops_the_share() -> None:
    torch.manual_seed(0)
    dropout = Dropout(0.25)
    dropped = dropout(torch.ones(1003, 101))
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.01)
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert torch.equal(dropout.eval()(torch.ones(3)), torch.ones(3))


def test_dropout_of_nearly_all_still_leaves_some() -> None:
    torch.manual_seed(0)
    dropped = Dropout(0.999)(torch.ones(1003, 101))
    assert dropped.unique().tolist() == [0.0, 256.0]
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.1)


def _timelines(config: ModelConfig) -> Timelines:
    return build_timelines(
        HISTORIES, np.zeros(len(HISTORIES), np.int64), catalogue=CATALOGUE, config=config
    )
