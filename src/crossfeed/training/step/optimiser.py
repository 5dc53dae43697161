"""The optimiser of one player: AdamW, which moves very large tables row by row.

Dims: I items, n rows that a step uses, E width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import AdamW, Optimizer

from crossfeed.config import TrainConfig
from crossfeed.errors import RunError
from crossfeed.model.decay import decayed
from crossfeed.model.player import Player
from crossfeed.training.step.average import RunningAverage
from crossfeed.training.step.row_adamw import BETAS, EPSILON, RowAdamW

__all__ = ["PlayerOptimiser"]


class PlayerOptimiser:
    """Moves a player by its gradients."""

    def __init__(
        self, player: Player, config: TrainConfig, *, average: RunningAverage | None
    ) -> None:
        """Prepare to move a player; biases and scales do not decay.

        Args:
            player: its parameters move; the tables of a layer with sparse gradients row by row.
            config: step size and weight decay.
            average: gets the rows that are about to move.
        """
        self._layer = player.layer
        tables = set(map(id, self._layer.sparse_tables()))
        decays = set(map(id, decayed(player)))
        whole, by_rows = (
            [
                {
                    "params": [
                        value
                        for value in player.parameters()
                        if value.requires_grad
                        and (id(value) in tables) == is_table
                        and (id(value) in decays) == is_decayed
                    ],
                    "weight_decay": config.weight_decay if is_decayed else 0.0,
                }
                for is_decayed in (True, False)
            ]
            for is_table in (False, True)
        )
        self.parts: tuple[Optimizer, ...] = (
            AdamW(whole, lr=config.learning_rate, betas=BETAS, eps=EPSILON, fused=True),
        )
        self._rows: RowAdamW | None = None
        if tables:
            self._rows = RowAdamW(by_rows, rate=config.learning_rate, average=average)
            self.parts = (*self.parts, self._rows)

    @property
    def by_rows(self) -> bool:
        """Return whether tables move row by row."""
        return self._rows is not None

    def catch_up(self, items: Tensor | None) -> None:
        """Bring the rows of items (n,) up to date before a step uses them; None is all rows."""
        if self._rows is not None:
            for table, rows in self._layer.rows_of(items):
                self._rows.catch_up(table, rows)

    def zero_grad(self) -> None:
        """Forget the gradients of the step before."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Move the parameters that have a gradient."""
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
        """Load the result of `state_dict`.

        Raises:
            RunError: it has other groups of parameters.
        """
        try:
            for part, its_state in zip(self.parts, state["parts"], strict=True):
                part.load_state_dict(its_state)
        except ValueError as error:
            raise RunError(
                "another version wrote the checkpoint's optimiser state, with other groups of "
                "weights: "
                f"{error}",
                hint="train again with --overwrite",
            ) from None
