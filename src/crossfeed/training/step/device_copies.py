"""Copies from processor to device: few and large ones, without waiting."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["moved"]


def moved(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return tensors of one type on another device, as parts of one tensor.

    A batch consists of many small tensors, and each copy costs a launch. A copy from pinned memory
    runs while the processor continues.
    """
    if not tensors:
        return []
    packed = torch.cat([tensor.flatten() for tensor in tensors])
    if device.type == "cuda":
        packed = packed.pin_memory()
    sizes = [tensor.numel() for tensor in tensors]
    parts = torch.split(packed.to(device, non_blocking=True), sizes)
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
