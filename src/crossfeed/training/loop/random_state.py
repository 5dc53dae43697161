"""torch's random numbers in a training: its own, from a seed, and part of its checkpoints."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

__all__ = ["forked", "random_state", "restore_random_state"]


def forked(device: torch.device) -> AbstractContextManager[None]:
    """Return a context that does not change the caller's random state."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the states of the generators that a training on the device draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Restore the result of `random_state`.

    A training that began on a CPU and continues on a GPU draws there from its own seed.
    """
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "cuda":
        torch.cuda.manual_seed(torch.initial_seed())
