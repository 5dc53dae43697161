"""Tables that move row by row: the same steps and averages as whole tables, and rest elsewhere."""

from __future__ import annotations

import copy

import pytest
import torch
from planted import tiny_config
from torch import nn

from crossfeed.config import Config
from crossfeed.data.dataset import Dataset, Part
from crossfeed.model.players import Players
from crossfeed.training.loop.state import FitState
from crossfeed.training.step import steps as stepping
from crossfeed.training.step.average import RunningAverage
from crossfeed.training.step.batches import batches
from crossfeed.training.step.proposals import StaticProposals, propose
from crossfeed.training.step.steps import discriminator_step, generator_step, score


def moved(dataset: Dataset, config: Config, *, steps: int = 1) -> FitState:
    """Return the state after some steps of both players."""
    torch.manual_seed(0)
    state = FitState(dataset.catalogue, config, device=torch.device("cpu"))
    torch.manual_seed(1)
    static = StaticProposals(dataset, config.train)
    source = batches(dataset, config, clicks=dataset.events(Part.TRAIN), epoch=0)
    for _, batch in zip(range(steps), source, strict=False):
        proposals = propose(
            state.players.generator,
            batch,
            static=static,
            config=config.train,
            expanded=[True] * 3,
            share=0.8,
        )
        scores = score(state.players, batch, proposals, config.train)
        for move, name in ((generator_step, "generator"), (discriminator_step, "discriminator")):
            move(state.players, state.optimisers[name], batch, proposals, scores, config)
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
    tables = frozenset(by_rows.move_rows_apart())
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
