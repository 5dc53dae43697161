"""Between processor and device: as few and as large copies as there can be, and no waiting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["Later", "moved"]

_MOST_WAITING = 4096
"""Values that wait for a copy at most, so that an epoch of any length holds few tensors."""


def moved(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return tensors of one type on another device, where they are parts of one tensor.

    A batch is made of many small tensors, and each copy costs a launch, however small it is.
    From pinned memory the copy goes on while the processor goes on, too.
    """
    if not tensors:
        return []
    packed = torch.cat([tensor.flatten() for tensor in tensors])
    if device.type == "cuda":
        packed = packed.pin_memory()
    sizes = [tensor.numel() for tensor in tensors]
    parts = torch.split(packed.to(device, non_blocking=True), sizes)
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


class Later:
    """Hands on named scalars as numbers, many with one copy.

    To ask a GPU for a number is to wait until it has done all that it was told before.
    """

    def __init__(self, take: Callable[[str, float], None]) -> None:
        self._take = take
        self._names: list[str] = []
        self._values: list[Tensor] = []

    def add(self, name: str, value: Tensor) -> None:
        """Take note of a scalar; it is handed on by `settle`, or when many wait."""
        self.add_all([name], value.reshape(1))

    def add_all(self, names: Sequence[str], values: Tensor) -> None:
        """Take note of several, (n,)."""
        self._names += names
        self._values.append(values.detach().double())
        if len(self._names) >= _MOST_WAITING:
            self.settle()

    def settle(self) -> None:
        """Hand on all that waits, in the order in which it came."""
        if not self._names:
            return
        names, values = self._names, torch.cat(self._values).tolist()
        self._names, self._values = [], []
        for name, value in zip(names, values, strict=True):
            self._take(name, value)
