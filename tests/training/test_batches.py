"""Prefetched batches: the same ones, in the same order, and errors where they arise."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import fields

import pytest
import torch
from planted import tiny_config

from crossfeed.data.dataset import Dataset, Part
from crossfeed.model.users.timelines import Timelines
from crossfeed.training.step.batches import Batch, batches, prefetched


def made(dataset: Dataset, **settings: object) -> Iterator[Batch]:
    config = tiny_config(batch_size=100)
    config = config.model_copy(update={"model": config.model.model_copy(update=settings)})
    return batches(dataset, config, clicks=dataset.events(Part.TRAIN), epoch=1)


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
        assert torch.equal(one.timelines.items, other.timelines.items)


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
