"""Means: what a step adds is read with few copies, summed by name, and added up over processes."""

from __future__ import annotations

import pytest
import torch

from crossfeed.training.step import means as module
from crossfeed.training.step.means import Means


def test_means_by_name_and_by_prefix() -> None:
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    means = Means(sums, counts)
    assert means.means() == {}
    means.add("loss a", torch.tensor(1.0))
    means.add("loss a", torch.tensor(2, dtype=torch.int64))
    means.add_all(["loss b", "c"], torch.tensor([0.1, -4.0]))
    assert sums == counts == {}  # the values wait on their device
    tenth = float(torch.tensor(0.1))
    assert means.means() == {"loss a": 1.5, "loss b": tenth, "c": -4.0}
    assert means.means("loss ") == {"a": 1.5, "b": tenth}
    assert (sums["loss a"], counts["loss a"]) == (3.0, 2)  # a checkpoint holds both
    assert Means(sums, counts).means("loss ") == {"a": 1.5, "b": tenth}
    means.add("late", torch.tensor(1.0))
    means.clear()
    assert means.means() == {}


def test_few_values_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_WAITING", 3)
    sums: dict[str, float] = {}
    means = Means(sums, {})
    for number in range(4):
        means.add("c", torch.tensor(float(number)))
    assert sums == {"c": 0.0 + 1.0 + 2.0}
