"""Copies in few pieces: what arrives is what was sent, in its order."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from planted import tiny_config

from crossfeed.data.dataset import Dataset
from crossfeed.model.users.timelines import Timelines
from crossfeed.training.step import batches as batches_module
from crossfeed.training.step.batches import batches
from crossfeed.training.step.device_copies import moved

CPU = torch.device("cpu")


def test_tensors_arrive_as_they_were() -> None:
    sent = [torch.arange(3), torch.zeros(0, dtype=torch.int64), torch.ones(2, 2).long()]
    arrived = moved(sent, CPU)
    assert all(torch.equal(one, other) for one, other in zip(sent, arrived, strict=True))
    assert len({one.untyped_storage().data_ptr() for one in arrived}) == 1  # one copy


@pytest.mark.parametrize("pool_items", [4096, 4], ids=["whole pools", "sampled pools"])
def test_a_batch_moves_as_a_whole(
    pool_items: int, last_out: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(pool_items=pool_items, batch_size=8)
    batch = next(batches(last_out, config, clicks=last_out.learned_events, epoch=0))
    assert any(group.sample for group in batch.groups) == (pool_items == 4)
    assert batch.to(CPU) is batch
    copies = []

    def one_copy(tensors: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        copies.append(device)
        return moved(tensors, CPU)

    monkeypatch.setattr(batches_module, "moved", one_copy)
    there = batch.to(torch.device("meta"))
    assert copies == [torch.device("meta")] * 2  # of positions, and of probabilities
    for field in fields(Timelines):
        first, second = (getattr(one.timelines, field.name) for one in (batch, there))
        assert torch.equal(first, second), field.name
    for first, second in zip(batch.groups, there.groups, strict=True):
        assert (first.rows, first.pool, first.names) == (second.rows, second.pool, second.names)
        assert torch.equal(first.clicks, second.clicks)
        assert all(torch.equal(*pair) for pair in zip(first.seen, second.seen, strict=True))
        if first.sample is None or second.sample is None:
            assert first.sample is second.sample is None
            continue
        assert torch.equal(first.sample.items, second.sample.items)
        assert torch.equal(first.sample.log_inclusion, second.sample.log_inclusion)
