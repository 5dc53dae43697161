"""What moves in a fit: both players, their optimisers, and the average of their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from crossfeed.config import Config
from crossfeed.model.players import Players
from crossfeed.scorer import Catalogue

__all__ = ["FitState"]

_RAMP = 10
"""Steps after which the average forgets its beginnings: n steps weigh at most as n / (n + ramp)."""


class FitState:
    """The players as they train, and as they are validated, kept and served."""

    def __init__(self, catalogue: Catalogue, config: Config, *, device: torch.device) -> None:
        self._train = config.train
        self.players = Players(catalogue, config.model).to(device)
        self._average = (
            AveragedModel(self.players, multi_avg_fn=self._move_average)
            if config.train.average
            else None
        )
        self.optimisers = {
            "discriminator": self._optimiser(self.players.discriminator),
            "generator": self._optimiser(self.players.generator),
        }

    @property
    def served(self) -> Players:
        """Return the players that are validated and kept: the average, where there is one."""
        if self._average is None:
            return self.players
        return self._average.module  # type: ignore[return-value] # it is a copy of the players

    def average(self) -> None:
        """Take the weights after a step into their average."""
        if self._average is not None:
            self._average.update_parameters(self.players)

    def set_learning_rate(self, rate: float) -> None:
        """Set the step size of both players."""
        for optimiser in self.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = rate

    def to_checkpoint(self) -> dict[str, Any]:  # Any: see run.Checkpoint
        """Return everything as tensors and plain values."""
        averaged = {} if self._average is None else {"average": self._average.state_dict()}
        return {
            "players": self.players.state_dict(),
            "optimisers": {name: one.state_dict() for name, one in self.optimisers.items()},
            **averaged,
        }

    def restore(self, checkpoint: dict[str, Any]) -> None:  # Any: see run.Checkpoint
        """Take over what `to_checkpoint` returned."""
        self.players.load_state_dict(checkpoint["players"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(checkpoint["optimisers"][name])
        if self._average is not None:
            self._average.load_state_dict(checkpoint["average"])

    @torch.no_grad()
    def _move_average(
        self, averages: Sequence[Tensor], weights: Sequence[Tensor], steps: Tensor | int
    ) -> None:
        """Move the average towards the weights; early on it forgets faster."""
        kept = min(self._train.average, float(steps) / (float(steps) + _RAMP))
        for average, weight in zip(averages, weights, strict=True):
            average.lerp_(weight, 1 - kept)

    def _optimiser(self, player: nn.Module) -> Optimizer:
        """Return AdamW; biases and norms are not decayed."""
        decayed = [value for value in player.parameters() if value.ndim > 1]
        others = [value for value in player.parameters() if value.ndim <= 1]
        return AdamW(
            [
                {"params": decayed, "weight_decay": self._train.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=self._train.learning_rate,
            fused=True,
        )
