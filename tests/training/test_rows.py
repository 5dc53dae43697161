"""Tables that move row by row: the same steps and averages as whole tables, at their cost alone."""

from __future__ import annotations

import copy

import pytest
import torch
from planted import tiny_config as default_config
from torch import nn
from torch.optim import AdamW

from crossfeed.config import Config
from crossfeed.data.dataset import Dataset
from crossfeed.model.players import Players
from crossfeed.training.loop.state import FitState
from crossfeed.training.step import steps as stepping
from crossfeed.training.step.average import RunningAverage
from crossfeed.training.step.batches import batches
from crossfeed.training.step.row_adamw import EPSILON, RowAdamW
from crossfeed.training.step.steps import train_step


def tiny_config(**train: object) -> Config:
    """Return settings with a bias for each row, so that two tables move."""
    config = default_config(**train)
    model = config.model.model_copy(update={"id_bias": True})
    return config.model_copy(update={"model": model})


def moved(dataset: Dataset, config: Config, *, steps: int = 1, stacked: bool = False) -> FitState:
    """Return the state after some steps of both players."""
    torch.manual_seed(0)
    state = FitState(dataset.catalogue, config, device=torch.device("cpu"))
    torch.manual_seed(1)
    clicks = dataset.learned_events
    source = batches(dataset, config, clicks=clicks, epoch=0, stacked=stacked)
    for _, batch in zip(range(steps), source, strict=False):
        train_step(
            state.players,
            state.optimisers,
            batch,
            config=config,
            expanded=[True] * 3,
        )
        state.average()
    return state


@pytest.mark.parametrize("table_rows", [0, 30], ids=["a row for each item", "hashed"])
def test_the_first_step_by_rows_is_that_of_whole_tables(table_rows: int, last_out: Dataset) -> None:
    settings = {"batch_size": 256, "weight_decay": 0.1}
    whole, rows = (
        moved(last_out, config.model_copy(update={"model": model}))
        for config in (tiny_config(**settings), tiny_config(dense_items=0, **settings))
        for model in [config.model.model_copy(update={"table_rows": table_rows})]
    )
    for (name, one), (_, other) in zip(
        whole.players.named_parameters(), rows.players.named_parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, msg=lambda text, name=name: f"{name}: {text}")
    for one, other in zip(whole.served.parameters(), rows.served.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("stacked", [False, True], ids=["one by one", "stacked"])
def test_steps_by_rows_are_those_of_whole_tables(stacked: bool, last_out: Dataset) -> None:
    """Each step looks at a sample of every pool, so that all rows rest now and then."""
    settings = {"batch_size": 8, "pool_items": 4, "weight_decay": 0.3}
    whole, rows = (
        moved(last_out, config, steps=30, stacked=stacked)
        for config in (tiny_config(**settings), tiny_config(dense_items=0, **settings))
    )
    behind = rows.players.generator.layer.vectors.weight.detach().clone()
    averages = whole.served, rows.served
    assert not torch.equal(rows.players.generator.layer.vectors.weight, behind)
    for player in ("generator", "discriminator"):
        one, other = (getattr(state.players, player).layer for state in (whole, rows))
        torch.testing.assert_close(other.vectors.weight, one.vectors.weight, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(other.biases, one.biases, rtol=1e-3, atol=1e-4)
        # The average takes the place where a row comes to rest for all of its rest.
        one, other = (getattr(players, player).layer for players in averages)
        torch.testing.assert_close(other.vectors.weight, one.vectors.weight, rtol=0, atol=0.02)


def test_rows_move_as_in_a_whole_table() -> None:
    torch.manual_seed(0)
    touched = {1: (100, 200, 250, 300), 2: (3,), 3: ()}
    dense, sparse = (nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    whole = AdamW([dense], lr=3e-3, weight_decay=0.1, eps=EPSILON)
    groups = [{"params": [sparse], "weight_decay": 0.1}]
    rows = RowAdamW(groups, rate=3e-3, average=None)
    for step in range(600):
        if step in (220, 450):
            for optimiser in (whole, rows):
                optimiser.param_groups[0]["lr"] *= 0.5
        if step == 260:
            rows.catch_up(sparse, None)
        if step == 275:  # a resumed training
            kept = copy.deepcopy(rows.state_dict())
            rows = RowAdamW(groups, rate=3e-3, average=None)
            rows.load_state_dict(kept)
        here = [0, *(row for row, steps in touched.items() if step in steps)]
        values = torch.randn(len(here), 3) + 1
        dense.grad = torch.zeros(4, 3).index_copy(0, torch.tensor(here), values)
        sparse.grad = dense.grad.to_sparse(1)
        rows.catch_up(sparse, torch.tensor(here))
        whole.step()
        rows.step()
    assert not torch.allclose(dense, sparse)
    rows.catch_up(sparse, None)
    torch.testing.assert_close(sparse, dense, rtol=1e-5, atol=1e-6)


def test_momentum_carries_a_row_on_while_it_rests() -> None:
    """Four gradients of 1, far apart: six times as far as the steps of the gradients alone."""
    table, whole = (nn.Parameter(torch.zeros(2, 1)) for _ in range(2))
    dense = AdamW([whole], lr=3e-3, weight_decay=0.0)
    rows = RowAdamW([{"params": [table], "weight_decay": 0.0}], rate=3e-3, average=None)
    alone = 0.0
    for step in range(1, 2001):
        here = [0, 1] if step in (1000, 1100, 1200, 1300) else [0]
        rows.catch_up(table, torch.tensor(here))
        whole.grad = torch.zeros(2, 1).index_fill(0, torch.tensor(here), 1.0)
        table.grad = whole.grad.to_sparse(1)
        before = table.detach()[1].clone()
        rows.step()
        dense.step()
        alone += float(before - table.detach()[1])
    rows.catch_up(table, None)
    moved_in_all = -float(table.detach()[1])
    assert moved_in_all == pytest.approx(-float(whole.detach()[1]), rel=1e-4)
    assert moved_in_all > 5 * alone > 0.1


def test_whether_pools_are_sampled_does_not_depend_on_how_tables_move(last_out: Dataset) -> None:
    clicks = last_out.learned_events
    for pool_items, sampled in ((100, False), (8, True)):
        for dense_items in (0, 10**6):
            config = tiny_config(pool_items=pool_items, dense_items=dense_items)
            batch = next(batches(last_out, config, clicks=clicks, epoch=0))
            assert all((group.sample is not None) == sampled for group in batch.groups)


def test_rows_that_no_step_looks_at_rest(last_out: Dataset) -> None:
    config = tiny_config(dense_items=0, pool_items=4, batch_size=8, weight_decay=0.5)
    torch.manual_seed(0)
    before = Players(last_out.catalogue, config.model)
    after = moved(last_out, config)
    resting = (
        (after.players.generator.output_layer.vectors.weight)
        == before.generator.output_layer.vectors.weight
    ).all(dim=1)
    assert 0 < int(resting.sum()) < last_out.catalogue.items


def test_the_average_of_rows_is_that_of_the_whole_table(last_out: Dataset) -> None:
    """Random rows move at random times; the average is asked for in between, and kept on disk."""
    torch.manual_seed(0)
    players = Players(last_out.catalogue, tiny_config().model)
    by_rows = copy.deepcopy(players)
    tables = frozenset(by_rows.use_sparse_gradients())
    expected = RunningAverage(players, kept=0.9, tables=frozenset())
    found = RunningAverage(by_rows, kept=0.9, tables=tables)
    values = {name: value for name, value in by_rows.named_parameters() if name in tables}
    for step in range(40):
        for name, value in values.items():
            if torch.rand(()) < 0.3:
                continue
            places = torch.randperm(len(value))[:5]
            found.before_move(value, places, value.detach()[places])
            with torch.no_grad():
                value[places] += torch.randn(value[places].shape)
                dict(players.named_parameters())[name].copy_(value)
        expected.update()
        found.update()
        if step == 20:
            restored = RunningAverage(by_rows, kept=0.9, tables=tables)
            restored.restore(found.to_checkpoint())
            found = restored
        if step in (10, 25, 39):
            for one, other in zip(
                expected.players().parameters(), found.players().parameters(), strict=True
            ):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_state_restored_goes_on_with_the_same_bits(last_out: Dataset) -> None:
    config = tiny_config(dense_items=0, pool_items=8, batch_size=64)
    straight = moved(last_out, config, steps=3)
    other = FitState(last_out.catalogue, config, device=torch.device("cpu"))
    other.restore(copy.deepcopy(moved(last_out, config, steps=3).to_checkpoint()))
    for state in (straight, other):
        for optimiser in state.optimisers.values():
            for part in optimiser.parts:
                for value in (value for group in part.param_groups for value in group["params"]):
                    ones = torch.ones_like(value)
                    value.grad = ones.to_sparse(1) if part is optimiser.parts[-1] else ones
            optimiser.step()
        state.average()
    for one, two in zip(straight.players.parameters(), other.players.parameters(), strict=True):
        assert torch.equal(one, two)
    for one, two in zip(straight.served.parameters(), other.served.parameters(), strict=True):
        assert torch.equal(one, two)


def test_gradients_of_rows_are_clipped_as_those_of_the_table(
    last_out: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stepping, "MOST_GRADIENT", 1e-3)
    weak = moved(last_out, tiny_config())
    rows = moved(last_out, tiny_config(dense_items=0))
    for one, other in zip(weak.players.parameters(), rows.players.parameters(), strict=True):
        assert isinstance(one, nn.Parameter)
        torch.testing.assert_close(one, other)
