"""Large pools: a step that looks at a sample of the items estimates what the whole would say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from demanding import with_demand
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from planted import tiny_config
from toy import toy_dataset

from crossfeed.config import Config
from crossfeed.data.dataset import Dataset, Part
from crossfeed.evaluation.baselines import Popularity
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.model.candidates import Proposals
from crossfeed.model.players import Players
from crossfeed.training.loop.trainer import train
from crossfeed.training.step import pool, pool_sampling
from crossfeed.training.step.batches import Batch, batches
from crossfeed.training.step.pool import pools_of
from crossfeed.training.step.pool_groups import DomainRows, PoolGroup
from crossfeed.training.step.pool_sampling import PoolSampler, alias_table
from crossfeed.training.step.proposals import propose
from crossfeed.training.step.steps import score

CLICKS = {"small": [3, 1], "large": [50, 20, 9, 4, 3, 2, 1, 1, 1, 1]}


@pytest.fixture
def dataset() -> Dataset:
    history = [(user, "large", item, Part.TRAIN) for user in range(4) for item in (user, user + 4)]
    return toy_dataset(CLICKS, history)


def test_a_sample_holds_the_clicks_and_no_item_twice(dataset: Dataset) -> None:
    sampler = PoolSampler(dataset, tiny_config(pool_items=4).train)
    rng = np.random.default_rng(0)
    assert sampler.draw(0, np.array([0]), rng) is None  # a pool of two items is looked at whole
    for _ in range(20):
        sample = sampler.draw(1, np.array([11, 8, 8]), rng)
        assert sample is not None
        items = sample.items.tolist()
        assert {8, 11} <= set(items) <= set(range(2, 12))
        assert items == sorted(set(items))
        drawn = sample.log_inclusion.isfinite()
        assert bool((sample.log_inclusion[drawn] <= 0).all())
        assert set(sample.items[~drawn].tolist()) <= {8, 11}  # there as clicks alone


def test_a_pool_is_large_by_all_its_items(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items without a row are drawn as well."""
    monkeypatch.setattr(pool_sampling, "_LEAST_DRAWS", 2)
    dataset = replace(dataset, catalogue=replace(dataset.catalogue, trained=np.array([2, 1])))
    rng = np.random.default_rng(0)
    whole = PoolSampler(dataset, tiny_config(pool_items=10).train)
    assert whole.draw(1, np.array([2]), rng) is None
    samples = [PoolSampler(dataset, tiny_config(pool_items=8).train).draw(1, np.array([2]), rng)]
    assert samples[0] is not None and bool((samples[0].items > 2).any())


def test_places_are_those_of_the_sample_that_was_asked(dataset: Dataset) -> None:
    sampler = PoolSampler(dataset, tiny_config(pool_items=4).train)
    asked, rng = np.array([11, 2, 2, 7, 5]), np.random.default_rng(0)
    for _ in range(20):
        sample = sampler.draw(1, np.array([11]), rng)
        assert sample is not None
        found = sampler.places(1, sample, asked)
        items = sample.items.tolist()
        assert found.tolist() == [items.index(i) if i in items else -1 for i in asked.tolist()]


WEIGHTS = arrays(np.float64, st.integers(1, 60), elements=st.floats(1e-6, 1e6))


@given(WEIGHTS)
@example(np.array([1.0, 2, 2, 1, 1, 3, 2, 2, 1, 3, 2]))  # sums that meet exactly
@example(np.ones(3) / 3)
def test_an_alias_table_draws_by_the_weights(weights: np.ndarray) -> None:
    kept, aliases = alias_table(weights)
    assert kept.min() >= 0 and kept.max() <= 1
    drawn = kept / len(weights)
    np.add.at(drawn, aliases, (1 - kept) / len(weights))
    np.testing.assert_allclose(drawn, weights / weights.sum(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("proposal", ["popularity", "uniform"])
def test_inclusion_is_how_often_an_item_is_in_the_sample(dataset: Dataset, proposal: str) -> None:
    """A click of the batch counts only if it was drawn as well, whatever the batch clicks."""
    sampler = PoolSampler(dataset, tiny_config(pool_items=4, static_proposal=proposal).train)
    rng = np.random.default_rng(0)
    found, promised, samples = np.zeros(10), np.full(10, np.nan), 6000
    for _ in range(samples):
        sample = sampler.draw(1, np.array([9, 11, 11]), rng)
        assert sample is not None
        drawn = sample.log_inclusion.isfinite()
        places = sample.items[drawn].numpy() - 2
        found[places] += 1
        promised[places] = sample.log_inclusion[drawn].exp()
    np.testing.assert_allclose(found / samples, promised, atol=0.025)


def looks(dataset: Dataset, config: Config) -> tuple[Batch, Players, Proposals]:
    torch.manual_seed(0)
    players = with_demand(Players(dataset.catalogue, config.model)).eval()
    batch = next(batches(dataset, config, clicks=dataset.learned_events, epoch=0))
    proposals = propose(
        players.generator,
        batch,
        config=config.train,
        expanded=[True] * 3,
    )
    return batch, players, proposals


def sampled(dataset: Dataset, group: PoolGroup, config: Config, seed: int) -> PoolGroup:
    """Return a group that looks at its pool whole with a sample of it instead."""
    assert isinstance(group, DomainRows) and group.sample is None
    clicks = group.item_indices(group.clicks)
    sample = PoolSampler(dataset, config.train).draw(
        group.domains[0], clicks.numpy(), np.random.default_rng(seed)
    )
    assert sample is not None
    seen = group.item_indices(group.seen[1])
    at = torch.searchsorted(sample.items, seen).clamp_max(len(sample.items) - 1)
    inside = sample.items[at] == seen
    places = sample.items - group.pool.start
    return replace(
        group,
        sample=sample,
        clicks=torch.searchsorted(sample.items, clicks),
        seen=(group.seen[0][inside], at[inside]),
        demand=group.demand[:, places],
        static=group.static[:, places],
    )


def test_confidence_and_proposal_of_a_sample_are_those_of_the_pool_on_average(
    last_out: Dataset,
) -> None:
    """Of every click, over many samples; one sample alone is off by a few per cent."""
    batch, players, whole = looks(last_out, tiny_config(batch_size=64, pool_items=100))
    assert len(batch.groups) == 3 and max(len(group.static) for group in batch.groups) > 3
    config, clicked, proposed = tiny_config(batch_size=64, pool_items=15), [], []
    for seed in range(40):
        again = propose(
            players.generator,
            replace(
                batch,
                groups=tuple(sampled(last_out, group, config, seed) for group in batch.groups),
            ),
            config=config.train,
            expanded=[True] * 3,
        )
        clicked.append(again.click_log_confidence.exp())
        proposed.append(again.click_log_proposal.exp())
    torch.testing.assert_close(
        torch.stack(clicked).mean(0), whole.click_log_confidence.exp(), rtol=0.15, atol=0
    )
    torch.testing.assert_close(
        torch.stack(proposed).mean(0), whole.click_log_proposal.exp(), rtol=0.15, atol=0
    )


def test_sums_over_samples_are_sums_over_the_pool_without_bias(last_out: Dataset) -> None:
    """A click that was not drawn counts for its own row alone, or its window would show twice."""
    batch, _, _ = looks(last_out, tiny_config(batch_size=64, pool_items=100))
    config, draws = tiny_config(batch_size=64, pool_items=6), 4000
    group = max(batch.groups, key=lambda group: len(group.clicks))
    torch.manual_seed(0)
    logits = torch.randn(1, group.size)
    existing = group.of_windows(group.static) > 0
    whole = logits.masked_fill(~existing, -torch.inf).index_put(
        group.seen, torch.tensor(-torch.inf)
    )
    summed, alone = torch.zeros(draws, len(group.clicks)), 0
    for seed in range(draws):
        again = sampled(last_out, group, config, seed)
        assert again.sample is not None
        alone += int(again.sample.log_inclusion.isinf().sum())
        of_sample = logits[:, again.sample.items - group.pool.start]
        exists = again.of_windows(again.static) > 0
        masses = again.as_masses(of_sample.masked_fill(~exists, -torch.inf))
        summed[seed] = masses.exp().sum(-1)
    assert alone > draws  # or the test would say nothing of them
    expected = whole.exp().sum(-1)
    error = summed.std(0) / draws**0.5
    assert bool(((summed.mean(0) - expected).abs() < 4.5 * error + 1e-4).all())
    assert float((error / expected).max()) < 0.02


def test_candidates_of_a_sample_are_items_of_the_domain_and_scored_as_such(
    last_out: Dataset,
) -> None:
    batch, players, proposals = looks(last_out, tiny_config(pool_items=6, batch_size=12))
    pools = pools_of(players.discriminator, batch)
    scores = score(players.discriminator, batch, pools, proposals, tiny_config().train)
    users = players.discriminator.users(batch.timelines)
    for group in batch.groups:
        assert group.sample is not None and group.size < 20
        items = group.item_indices(proposals.candidates[group.rows])
        assert bool((items >= group.pool.start).all()) and bool((items < group.pool.stop).all())
        layer = players.discriminator.scoring_layer
        expected = (layer.vectors.weight[items] * users[group.rows].unsqueeze(1)).sum(-1)
        of_demand = players.discriminator.demand(
            group.demand.unsqueeze(0), torch.tensor(group.domains)
        )[0]
        rows = group.of_windows(of_demand)
        expected = expected + rows.gather(-1, proposals.candidates[group.rows])
        expected = expected + layer.biases[items]
        torch.testing.assert_close(scores.candidates[group.rows], expected)


@pytest.mark.parametrize("settings", [{"pool_items": 8}, {"dense_items": 0}, {}])
def test_taste_is_learned_from_samples_and_by_rows_too(
    last_out: Dataset, tmp_path: Path, settings: dict[str, int]
) -> None:
    config = tiny_config(epochs=6, patience=6, **settings)
    run = train(last_out, out=tmp_path / "run", config=config)
    popularity = evaluate(Popularity(last_out), last_out, part=Part.VALIDATION).micro["ndcg@10"]
    learned = evaluate(run.scorer(), last_out, part=Part.VALIDATION).micro["ndcg@10"]
    assert learned > 1.3 * popularity


def test_the_same_seed_gives_the_same_samples(last_out: Dataset) -> None:
    config = tiny_config(pool_items=6)
    once, again = (
        next(batches(last_out, config, clicks=last_out.learned_events, epoch=3)) for _ in range(2)
    )
    for one, other in zip(once.groups, again.groups, strict=True):
        assert one.sample is not None and other.sample is not None
        assert torch.equal(one.sample.items, other.sample.items)


def test_few_candidates_of_a_large_pool_are_scored_alone(
    last_out: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same scores and gradients as of a product over the whole pool."""
    found = []
    for worth in (10**6, 0):
        monkeypatch.setattr(pool, "_WORTH_LOOKING_UP", worth)
        batch, players, proposals = looks(last_out, tiny_config(candidates=2))
        layer = players.discriminator.layer
        pools = pools_of(players.discriminator, batch)
        scores = score(players.discriminator, batch, pools, proposals, tiny_config().train)
        (scores.candidates.square().sum() + scores.clicks.exp().sum()).backward()
        weights = (layer.vectors.weight, layer.biases, *players.discriminator.network.parameters())
        found.append((scores.candidates, scores.clicks, *(one.grad for one in weights)))
    for whole, few in zip(*found, strict=True):
        torch.testing.assert_close(few, whole)
