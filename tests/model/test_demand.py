"""What is in demand changes with time: periods, what is served, and what is learned of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import tiny_config

from crossfeed.config import Config, ModelConfig
from crossfeed.data.dataset import ROW_ORDER, Dataset, Part
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.model.demand import Demand
from crossfeed.model.network_scorer import NetworkScorer
from crossfeed.model.players import Players
from crossfeed.model.users.timelines import build_timelines
from crossfeed.scorer import Catalogue, Histories
from crossfeed.training.loop.trainer import train

CATALOGUE = Catalogue(("a", "b"), offsets=np.array([0, 4, 9]), known=np.array([4, 5]))
DOMAINS = torch.tensor([0, 1, 1])


def demand(periods: int = 4) -> Demand:
    """Return two domains' demand between the times 100 and 500."""
    made = Demand(domains=2, config=ModelConfig(width=4, heads=2, periods=periods))
    made.span.copy_(torch.tensor([100, 500]))
    with torch.no_grad():
        made.vectors.copy_(torch.arange(made.vectors.numel()).reshape(made.vectors.shape))
    return made


def test_a_moment_lies_between_the_ends_of_its_period() -> None:
    found = demand()(torch.tensor([100, 250, 250]), DOMAINS)
    # Lines of 5 vectors each; 250 is 1.5 periods of 100 after the beginning.
    first = torch.arange(4.0)
    torch.testing.assert_close(found[0], first)
    torch.testing.assert_close(found[1], first + 4 * (5 + 1.5))
    torch.testing.assert_close(found[2], found[1])


def test_before_and_after_training_are_its_ends() -> None:
    found = demand()(torch.tensor([-5, 500, 10**15]), DOMAINS)
    torch.testing.assert_close(found[0], torch.arange(4.0))
    torch.testing.assert_close(found[1], torch.arange(4.0) + 4 * 9)
    assert torch.equal(found[1], found[2])
    assert torch.equal(demand()(None, DOMAINS)[1:], found[1:])


def test_of_many_periods_the_newest_are_served_together() -> None:
    """One twelfth of 24 boundaries is two: what one of them had by chance is halved."""
    made = demand(periods=23)
    first = torch.arange(4.0)
    for times in (None, torch.tensor([501, 501, 501])):
        found = made.eval()(times, DOMAINS)
        torch.testing.assert_close(found[0], first + 4 * 22.5)
        torch.testing.assert_close(found[1], first + 4 * (24 + 22.5))
    at_the_end = made(torch.tensor([500, 500, 500]), DOMAINS)
    torch.testing.assert_close(at_the_end[0], first + 4 * 23)


def test_without_periods_there_is_no_demand() -> None:
    none = demand(periods=0)
    assert none.vectors.numel() == 0
    assert not none(torch.tensor([100, 250, 900]), DOMAINS).any()
    assert not none(None, DOMAINS).any()


def test_where_times_say_nothing_there_is_one_moment() -> None:
    """What is served is what was trained, the last of the boundaries, though others are newest."""
    made = demand(periods=23)
    made.span.zero_()
    last = made.vectors.view(2, 24, 4)[DOMAINS, -1]
    for times in (torch.tensor([-5, 0, 10**12]), torch.tensor([1, 77, 5]), None):
        assert torch.equal(made.train()(times, DOMAINS), last)
        assert torch.equal(made.eval()(times, DOMAINS), last)


@pytest.fixture
def scorer() -> NetworkScorer:
    torch.manual_seed(0)
    players = Players(CATALOGUE, ModelConfig(width=8, heads=2, periods=3))
    players.set_time_span(1_000, 4_000)
    for player in (players.discriminator, players.generator):
        torch.nn.init.normal_(player.demand.vectors)
    return NetworkScorer(CATALOGUE, players)


HISTORIES = Histories.of([[0, 5], [], [1, 2, 8]])


@pytest.mark.parametrize("domain", [0, 1])
def test_the_end_of_training_is_what_is_served(scorer: NetworkScorer, domain: int) -> None:
    """No time, the last time and any later one are the same, and the biases hold it."""
    served = scorer.score(HISTORIES, domain)
    for time in (4_000, 9_000):
        asked = dataclasses.replace(HISTORIES, times=np.full(3, time))
        np.testing.assert_allclose(scorer.score(asked, domain), served, rtol=1e-5, atol=1e-6)
    before = dataclasses.replace(HISTORIES, times=np.full(3, 2_000))
    assert np.abs(scorer.score(before, domain) - served).max() > 0.1


def test_scores_at_a_time_are_those_that_were_trained(scorer: NetworkScorer) -> None:
    times = np.array([1_200, 2_500, 3_900])
    asked = dataclasses.replace(HISTORIES, times=times)
    players = scorer.players
    timelines = build_timelines(
        asked, np.ones(3, np.int64), catalogue=CATALOGUE, config=players.config
    )
    both = [
        layer(player.users(timelines, torch.from_numpy(times)), slice(4, 9))
        for player, layer in (
            (players.discriminator, players.discriminator.scoring_layer),
            (players.generator, players.generator.output_layer),
        )
    ]
    expected = torch.stack(both).mean(0).detach().numpy()
    np.testing.assert_allclose(scorer.score(asked, 1), expected, rtol=1e-4, atol=1e-5)


def test_a_row_keeps_its_time_in_parts_of_a_batch(scorer: NetworkScorer) -> None:
    asked = dataclasses.replace(HISTORIES, times=np.array([1_200, 2_500, 3_900]))
    together = scorer.score(asked, 0)
    for row in range(3):
        alone = scorer.score(asked.rows_between(row, row + 1), 0)
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-5, atol=1e-6)
    kept = asked.where(np.zeros(len(asked.items), np.bool_))
    assert kept.times is asked.times


def in_fashion(dataset: Dataset) -> Dataset:
    """Return the dataset with times in which the clicked item's number is the fashion."""
    places = dataset.event_item - dataset.catalogue.offsets[dataset.event_domain]
    return dataclasses.replace(dataset, event_time=(1_000 + 1_000 * places).astype(np.int64))


def config(periods: int) -> Config:
    tree = tiny_config(epochs=8, patience=8).model_dump()
    return Config.model_validate({**tree, "model": {**tree["model"], "periods": periods}})


def test_a_fashion_is_learned(last_out: Dataset, tmp_path: Path) -> None:
    dataset = in_fashion(last_out)
    found = {
        periods: evaluate(
            train(dataset, out=tmp_path / f"{periods}", config=config(periods)),
            dataset,
            part=Part.VALIDATION,
        ).micro["ndcg@10"]
        for periods in (0, 10)
    }
    assert found[10] > found[0] + 0.2


def test_the_span_is_that_of_training(last_out: Dataset) -> None:
    trained = last_out.event_time[last_out.event_part == Part.TRAIN]
    assert last_out.training_span == (trained.min(), trained.max())
    assert last_out.refitted().training_span == (
        last_out.event_time.min(),
        last_out.event_time.max(),
    )


def test_the_order_of_rows_is_no_time(last_out: Dataset) -> None:
    log = {**last_out.manifest["log"], "time_unit": ROW_ORDER}
    untimed = dataclasses.replace(last_out, manifest={**last_out.manifest, "log": log})
    assert untimed.training_span == (0, 0)
    at_once = dataclasses.replace(last_out, event_time=np.full_like(last_out.event_time, 7))
    assert at_once.training_span == (0, 0)
