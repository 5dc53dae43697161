"""The optimiser of one player: AdamW, and for tables too large to move as a whole, row by row.

Dims: I items, n rows that a step looks at, E width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from crossfeed.config import TrainConfig
from crossfeed.training.step.average import RunningAverage

__all__ = ["PlayerOptimiser"]

_BETAS, _EPSILON = (0.9, 0.999), 1e-8  # AdamW's own


class PlayerOptimiser:
    """Moves a player by its gradients."""

    def __init__(
        self,
        player: nn.Module,
        config: TrainConfig,
        *,
        tables: Sequence[nn.Parameter],
        average: RunningAverage | None,
    ) -> None:
        """Prepare to move a player; biases and norms are not decayed.

        Args:
            player: whose parameters move.
            config: step size and weight decay.
            tables: those parameters whose gradients are sparse, row by row.
            average: is told which rows are about to move.
        """
        self.parts: tuple[Optimizer, ...] = (_adamw(player, config, without=tables),)
        if tables:
            self.parts = (*self.parts, RowAdamW(tables, config, average=average))

    def zero_grad(self) -> None:
        """Forget the gradients of the step before."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Move what has a gradient."""
        for part in self.parts:
            part.step()

    def set_learning_rate(self, rate: float) -> None:
        """Set the step size."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:  # Any: torch's own
        """Return the moments and step counts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # Any: torch's own
        """Take over what `state_dict` returned."""
        for part, its_state in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(its_state)


class RowAdamW(Optimizer):
    """AdamW in which moments, decay and weight of a row rest while no gradient names it.

    So a step costs what its rows cost, however large the table.

    Source: Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019, algorithm 2, line 12.
    """

    def __init__(
        self,
        tables: Sequence[nn.Parameter],
        config: TrainConfig,
        *,
        average: RunningAverage | None,
    ) -> None:
        """Prepare to move tables by sparse gradients; (I, E) decay, (I,) do not."""
        groups = [
            {"params": [table], "weight_decay": config.weight_decay if table.ndim > 1 else 0.0}
            for table in tables
        ]
        super().__init__(groups, {"lr": config.learning_rate})
        self._average = average
        for table in tables:
            self.state[table] = {
                "step": 0,
                "exp_avg": torch.zeros_like(table, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(table, requires_grad=False),
            }

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # none is ever given
        """Move the rows that have a gradient."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    gradient = table.grad.coalesce()
                    places = gradient._indices()[0]
                    rows = table.index_select(0, places)
                    if self._average is not None:
                        self._average.before_move(table, places, rows)
                    self._move(table, places, rows, gradient._values(), group)

    def _move(
        self,
        table: nn.Parameter,
        places: Tensor,
        rows: Tensor,
        gradient: Tensor,
        group: dict[str, Any],
    ) -> None:
        """Move the `rows` at `places` (n,) by their gradient (n, ...)."""
        state = self.state[table]
        state["step"] += 1
        first, second = (state[name].index_select(0, places) for name in ("exp_avg", "exp_avg_sq"))
        first.lerp_(gradient, 1 - _BETAS[0])
        second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
        state["exp_avg"].index_copy_(0, places, first)
        state["exp_avg_sq"].index_copy_(0, places, second)
        first_share, second_share = (1 - beta ** state["step"] for beta in _BETAS)
        spread = second.sqrt_().div_(second_share**0.5).add_(_EPSILON)
        rows.mul_(1 - group["lr"] * group["weight_decay"])
        table.index_copy_(0, places, rows.addcdiv_(first, spread, value=-group["lr"] / first_share))


def _adamw(player: nn.Module, config: TrainConfig, *, without: Sequence[nn.Parameter]) -> AdamW:
    """Return AdamW over a player's parameters but some."""
    rest = [
        value
        for value in player.parameters()
        if value.requires_grad and not any(value is one for one in without)
    ]
    return AdamW(
        [
            {"params": [v for v in rest if v.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [v for v in rest if v.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=_BETAS,
        eps=_EPSILON,
        fused=True,
    )
