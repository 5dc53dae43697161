"""Means of named values over the steps of an epoch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crossfeed.training.parallel.distributed import Workers

__all__ = ["Means"]

_MOST_WAITING = 4096
"""Most values that wait for a copy, so that an epoch of any length holds few tensors."""


class Means:
    """Sums and counts by name, in dictionaries that a checkpoint can hold.

    Values stay on their device until many of them can be read with one copy: reading a number from
    a GPU waits for all work queued before it.
    """

    def __init__(self, sums: dict[str, float], counts: dict[str, int]) -> None:
        self.sums, self.counts = sums, counts
        self._names: list[str] = []
        self._values: list[Tensor] = []

    def add(self, name: str, value: Tensor) -> None:
        """Add a scalar."""
        self.add_all([name], value.reshape(1))

    def add_all(self, names: Sequence[str], values: Tensor) -> None:
        """Add several scalars, (n,)."""
        self._names += names
        self._values.append(values.detach().double())
        if len(self._names) >= _MOST_WAITING:
            self.settle()

    def settle(self) -> None:
        """Bring `sums` and `counts` up to date."""
        if not self._names:
            return
        names, values = self._names, torch.cat(self._values).tolist()
        self._names, self._values = [], []
        for name, value in zip(names, values, strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def add_up(self, workers: Workers) -> None:
        """Add the sums and counts of all other processes to those of this one."""
        self.settle()
        self.sums.update(workers.added(self.sums))
        self.counts.update(workers.added(self.counts))

    def means(self, prefix: str = "") -> dict[str, float]:
        """Return the mean of each name with a prefix, named without it."""
        self.settle()
        return {
            name.removeprefix(prefix): total / self.counts[name]
            for name, total in self.sums.items()
            if name.startswith(prefix)
        }

    def clear(self) -> None:
        """Begin a new epoch."""
        self.settle()
        self.sums.clear()
        self.counts.clear()
