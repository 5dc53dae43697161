"""Batches: what everybody did before their windows, and batches that are made ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from demanding import with_demand
from planted import tiny_config
from toy import living_dataset, toy_dataset

from crossfeed.data.dataset import Dataset, Part
from crossfeed.data.dataset.windows import Windows, windows_of
from crossfeed.data.demand import FEATURES, HALF_LIVES, LEAST_LOG_SHARE
from crossfeed.errors import TrainingError
from crossfeed.model.players import Players
from crossfeed.model.users.timelines import Timelines
from crossfeed.training.loop.state import FitState
from crossfeed.training.step.batches import Batch, batches, prefetched
from crossfeed.training.step.pool import pools_of
from crossfeed.training.step.proposals import propose
from crossfeed.training.step.steps import train_step


def made(dataset: Dataset, **settings: object) -> Iterator[Batch]:
    config = tiny_config(batch_size=100)
    config = config.model_copy(update={"model": config.model.model_copy(update=settings)})
    return batches(dataset, config, clicks=dataset.learned_events, epoch=1)


def test_long_histories_are_looked_at_in_blocks_and_make_the_same_batch(
    last_out: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"mask_share": 0, "history_per_domain": 3, "history_total": 5}
    whole = next(made(last_out, **settings))
    monkeypatch.setattr("crossfeed.training.step.batches._CLICKS_AT_ONCE", 40)
    blocks = next(made(last_out, **settings))
    for field in fields(Timelines):
        one, other = (getattr(batch.timelines, field.name) for batch in (whole, blocks))
        assert torch.equal(one, other), field.name
    for one, other in zip(whole.groups, blocks.groups, strict=True):
        assert torch.equal(one.clicks, other.clicks)
        assert all(torch.equal(a, b) for a, b in zip(one.seen, other.seen, strict=True))


def test_batches_made_ahead_are_the_same_in_the_same_order(last_out: Dataset) -> None:
    pairs = list(zip(made(last_out), prefetched(made(last_out)), strict=True))
    assert [one.step for one, _ in pairs] == list(range(len(pairs)))
    for one, other in pairs:
        assert one.step == other.step
        assert torch.equal(one.timelines.item_rows, other.timelines.item_rows)


def test_batches_are_made_in_another_thread_before_they_are_asked_for(last_out: Dataset) -> None:
    asked, threads = threading.Event(), []

    def source() -> Iterator[Batch]:
        for batch in made(last_out):
            threads.append(threading.current_thread().name)
            if batch.step == 1:
                asked.set()
            yield batch

    waiting = prefetched(source())
    assert next(waiting).step == 0
    assert asked.wait(30), "the second batch was not made before it was asked for"
    waiting.close()
    assert all(name.startswith("batches") for name in threads)
    assert not any(one.name.startswith("batches") for one in threading.enumerate())


def test_what_goes_wrong_in_assembly_is_raised_by_the_step_that_needs_it(
    last_out: Dataset,
) -> None:
    def source() -> Iterator[Batch]:
        yield next(made(last_out))
        raise OSError("the events are gone")

    waiting = prefetched(source())
    assert next(waiting).step == 0
    with pytest.raises(OSError, match="the events are gone"):
        next(waiting)


def epoch_of(dataset: Dataset, **settings: object) -> list[Batch]:
    config = tiny_config(**{"batch_size": 60, **settings})
    return list(batches(dataset, config, clicks=dataset.learned_events, epoch=0))


def windows_by_hand(dataset: Dataset, **settings: object) -> list[Windows]:
    """Return the windows of each step of the first epoch."""
    config = tiny_config(**{"batch_size": 60, **settings})
    clicks = dataset.learned_events
    steps = -(-len(clicks) // config.train.batch_size)
    rng = np.random.default_rng([config.train.seed, 0])
    windows = windows_of(dataset, clicks, rng=rng, most=len(clicks) // steps)
    order = np.array_split(rng.permutation(len(windows)), steps)
    return [
        Windows(
            np.concatenate(
                [windows.events[windows.offsets[one] : windows.offsets[one + 1]] for one in part]
            ),
            np.concatenate([[0], np.cumsum(np.diff(windows.offsets)[part])]),
            windows.domains[part],
            windows.times[part],
        )
        for part in order
    ]


def demand_by_hand(dataset: Dataset, item: int, time: int) -> tuple[np.ndarray, int]:
    """Return (F,) the demand of an item from the clicks before a time, and how many it has."""
    domain = dataset.catalogue.domain_of(np.array([item]))[0]
    before = (dataset.event_domain == domain) & (dataset.event_time < time)
    times = dataset.event_time[before]
    own = dataset.event_time[before & (dataset.event_item == item)]
    if not len(own):
        return np.array([LEAST_LOG_SHARE] * (FEATURES - 2) + [0.0, 0.0]), 0
    shares = [
        np.exp2((own - times.max()) / life).sum() / np.exp2((times - times.max()) / life).sum()
        for life in HALF_LIVES
    ]
    logs = np.maximum(np.log([*shares, len(own) / len(times)]), LEAST_LOG_SHARE)
    ages = (times.max() - np.array([own.min(), own.max()])) / 3_600_000
    return np.concatenate([logs, np.log1p(ages)]), len(own)


@pytest.mark.parametrize("pool_items", [4096, 8], ids=["whole", "samples"])
def test_demand_and_weights_are_those_of_the_clicks_before_each_window(pool_items: int) -> None:
    dataset = living_dataset()
    steps = windows_by_hand(dataset, pool_items=pool_items)
    made = epoch_of(dataset, pool_items=pool_items)
    assert len(made) == len(steps) > 5
    for batch, windows in zip(made[:4], steps, strict=False):
        for group in batch.groups:
            (domain,) = group.domains
            times = windows.times[windows.domains == domain]
            assert group.static.shape == (len(times), group.size)
            items = group.item_indices(torch.arange(group.size)[None].expand(1, -1))[0]
            for window, time in enumerate(times.tolist()):
                for place, item in enumerate(items.tolist()):
                    demand, clicks = demand_by_hand(dataset, item, time)
                    found = group.demand[window, place].numpy()
                    np.testing.assert_allclose(found, demand, rtol=1e-5, atol=1e-5)
                    assert float(group.static[window, place]) == pytest.approx(clicks**0.75)


def test_a_batch_has_the_clicks_of_its_windows_whose_items_existed() -> None:
    dataset = living_dataset()
    left_out = 0
    for batch, windows in zip(epoch_of(dataset), windows_by_hand(dataset), strict=True):
        expected: list[tuple[int, int]] = []
        sizes = np.diff(windows.offsets)
        for event, time in zip(windows.events, np.repeat(windows.times, sizes), strict=True):
            item = int(dataset.event_item[event])
            exists = bool(((dataset.event_item == item) & (dataset.event_time < time)).any())
            left_out += not exists
            expected += [(item, int(time))] * exists
        found = []
        for group in batch.groups:
            times = windows.times[windows.domains == group.domains[0]]
            items = group.item_indices(group.clicks).tolist()
            found += list(zip(items, times[group.windows.numpy()].tolist(), strict=True))
        assert sorted(found) == sorted(expected)
        assert batch.rows == len(expected)
    assert left_out > 10


@pytest.mark.parametrize("stacked", [False, True], ids=["one by one", "stacked"])
@pytest.mark.parametrize("static", ["popularity", "uniform"])
@pytest.mark.parametrize("pool_items", [4096, 8], ids=["whole", "samples"])
def test_nothing_of_the_future_has_mass_or_is_drawn(
    pool_items: int, static: str, stacked: bool
) -> None:
    """In all steps of an epoch: an item that nobody clicked before the window is not there."""
    dataset = living_dataset()
    settings = {"batch_size": 60, "pool_items": pool_items, "static_proposal": static}
    config = tiny_config(**settings, proposal_share=0.5)
    torch.manual_seed(0)
    players = with_demand(Players(dataset.catalogue, config.model)).eval()
    firsts = np.full(dataset.catalogue.items, np.iinfo(np.int64).max)
    np.minimum.at(firsts, dataset.event_item, dataset.event_time)
    clicks, future = dataset.learned_events, 0
    source = batches(dataset, config, clicks=clicks, epoch=0, stacked=stacked)
    for batch, windows in zip(source, windows_by_hand(dataset, **settings), strict=True):
        proposals = propose(
            players.generator, batch, config=config.train, expanded=[True, True, False]
        )
        pools = pools_of(players.discriminator, batch)
        drawn = batch.by_domain(proposals.candidates)
        for place, group in enumerate(batch.groups):
            shape = (*group.clicks.shape, group.size)
            items = group.item_indices(torch.arange(group.size).expand(shape)).numpy()
            moments = np.stack(
                [
                    windows.times[windows.domains == domain][own.numpy()]
                    for domain, own in zip(
                        group.domains, group.windows.view(len(group.domains), -1), strict=True
                    )
                ]
            ).reshape(group.clicks.shape)
            unborn = torch.from_numpy(firsts[items] >= moments[..., None])
            future += int(unborn.sum())
            confidence = proposals.confidences[place]
            assert not bool((confidence.isfinite() & unborn).any())
            biases = group.of_windows(pools[place].biases)
            assert not bool((biases.isfinite() & unborn).any())
            assert bool(unborn.logical_not().gather(-1, drawn[place]).all())
            assert bool(unborn.logical_not().gather(-1, group.clicks.unsqueeze(-1)).all())
    assert future > 100
    assert bool(proposals.candidate_log_proposal.isfinite().all())


def in_turn(items: Sequence[int], times: Sequence[int], *, count: int) -> Dataset:
    """Return a log of one click per user in one domain."""
    clicks = [(user, "all", item, Part.TRAIN) for user, item in enumerate(items)]
    dataset = toy_dataset({"all": [1] * count}, clicks)
    return replace(dataset, event_time=np.array(times, np.int64))


def test_a_batch_without_a_row_takes_the_next_ones() -> None:
    """Only the last three of twenty clicks are on an item that existed."""
    dataset = in_turn([*range(17), 0, 0, 0], range(20), count=17)
    config = tiny_config(batch_size=2)
    made = list(batches(dataset, config, clicks=dataset.learned_events, epoch=0))
    assert [batch.step for batch in made] == list(range(10))
    for batch in made:
        assert set(batch.groups[0].clicks.tolist()) == {0}
    rest = list(batches(dataset, config, clicks=dataset.learned_events, epoch=0, first_step=4))
    for one, other in zip(made[4:], rest, strict=True):
        assert torch.equal(one.groups[0].demand, other.groups[0].demand)


@pytest.mark.parametrize(
    ("items", "times"),
    [(range(20), range(20)), ([0] * 20, [7] * 20)],
    ids=["each item once", "all at one time"],
)
def test_a_log_in_which_no_item_existed_is_refused(items: Sequence[int], times: list[int]) -> None:
    dataset = in_turn(items, times, count=20)
    waiting = prefetched(
        batches(dataset, tiny_config(batch_size=5), clicks=dataset.learned_events, epoch=0)
    )
    with pytest.raises(TrainingError, match="training clicks of 'toy' are on items that nobody"):
        next(waiting)


def test_items_without_a_row_move_no_table() -> None:
    """A step that only knows clicks on them changes no row, and yet teaches demand."""
    dataset = living_dataset(sizes=(20,), trained=(1,), clicks=300)
    dataset = replace(dataset, event_item=np.where(dataset.event_item == 0, 1, dataset.event_item))
    config = tiny_config(batch_size=60, weight_decay=0.0)
    for dense_items in (0, 10**6):
        one = config.model_copy(
            update={"train": config.train.model_copy(update={"dense_items": dense_items})}
        )
        state = FitState(dataset.catalogue, one, device=torch.device("cpu"))
        with_demand(state.players)
        before = {name: value.clone() for name, value in state.players.state_dict().items()}
        source = batches(dataset, one, clicks=dataset.learned_events, epoch=0)
        batch = next(source)
        assert not len(batch.timelines.item_rows)
        assert batch.groups[0].table == slice(0, 1)
        train_step(state.players, state.optimisers, batch, config=one, expanded=[True])
        for name, value in state.players.state_dict().items():
            if "layer." in name:
                assert torch.equal(value, before[name]), name
        for player in ("generator", "discriminator"):
            name = f"{player}.demand.linear"
            assert not torch.equal(state.players.state_dict()[name], before[name])
