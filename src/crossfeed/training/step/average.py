"""The running average of the weights, which is validated, kept and served.

Tables whose rows move one by one are averaged row by row. The average of an unused row is not
updated; the row catches up before it moves again or is read. Its average is then
w + (average - w) k, with w its unchanged weight and k the product of the decays it missed.

Dims: I items.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from crossfeed.model.players import Players

__all__ = ["RunningAverage"]

_RAMP = 10
"""Steps after which the average forgets its beginnings: n steps weigh at most as n / (n + ramp)."""
_LEAST_LOG = -100.0
"""Log of a decay that leaves nothing of the beginning, in a float32."""


class RunningAverage:
    """Follows players as they train; `players` returns the averaged ones, up to date."""

    def __init__(self, moving: Players, *, kept: float, tables: frozenset[str]) -> None:
        """Begin with a copy.

        Args:
            moving: the players that are trained.
            kept: decay of the average in each step.
            tables: names of the parameters whose rows move one by one.
        """
        self._kept = kept
        self._players = copy.deepcopy(moving)
        self._updates = 0
        self._log = 0.0
        """Sum of the logs of the decays so far."""
        averages = dict(self._players.named_parameters())
        pairs = {name: (averages[name], value) for name, value in moving.named_parameters()}
        self._dense = [pair for name, pair in pairs.items() if name not in tables]
        self._tables = {
            value: _Rows(average, torch.zeros(len(value), dtype=torch.float64, device=value.device))
            for name, (average, value) in pairs.items()
            if name in tables
        }

    @torch.no_grad()
    def players(self) -> Players:
        """Return the averaged players, with every row up to date; call it between steps."""
        for value, rows in self._tables.items():
            behind = (rows.logs != self._log).nonzero().squeeze(1)
            weights = value.index_select(0, behind)
            rows.average.index_copy_(0, behind, self._caught_up(rows, behind, weights))
            rows.logs[behind] = self._log
        return self._players

    @torch.no_grad()
    def before_move(self, value: nn.Parameter, places: Tensor, weights: Tensor) -> None:
        """Apply to rows the updates that they missed; they move before the next update.

        Args:
            value: a table of the moving players, which moves once between two updates.
            places: (n,) its rows, without repeats.
            weights: (n, ...) the present rows.
        """
        rows = self._tables[value]
        rows.moved = places, self._caught_up(rows, places, weights)

    @torch.no_grad()
    def update(self) -> None:
        """Add the weights after a step to the average."""
        kept = min(self._kept, self._updates / (self._updates + _RAMP))
        averages, weights = zip(*self._dense, strict=True)
        torch._foreach_lerp_(averages, weights, 1 - kept)
        self._updates += 1
        self._log += math.log(kept) if kept else _LEAST_LOG
        for value, rows in self._tables.items():
            if rows.moved is not None:
                places, average = rows.moved
                average.lerp_(value.index_select(0, places), 1 - kept)
                rows.average.index_copy_(0, places, average)
                rows.logs[places] = self._log
                rows.moved = None

    def to_checkpoint(self) -> dict[str, Any]:  # Any: see run.Checkpoint
        """Return everything as tensors and plain values."""
        return {
            "updates": self._updates,
            "log": self._log,
            "players": self._players.state_dict(),
            "rows": [rows.logs for rows in self._tables.values()],
        }

    def restore(self, checkpoint: dict[str, Any]) -> None:  # Any: see run.Checkpoint
        """Load the result of `to_checkpoint`."""
        self._updates, self._log = checkpoint["updates"], checkpoint["log"]
        self._players.load_state_dict(checkpoint["players"])
        for rows, logs in zip(self._tables.values(), checkpoint["rows"], strict=True):
            rows.logs.copy_(logs)

    def _caught_up(self, rows: _Rows, places: Tensor, weights: Tensor) -> Tensor:
        """Return (n, ...) the averages of rows whose weights did not change."""
        missed = self._log - rows.logs[places]
        factors = missed.exp().to(weights).reshape(-1, *[1] * (weights.ndim - 1))
        return torch.addcmul(weights, rows.average.index_select(0, places) - weights, factors)


class _Rows:
    """The average of one table, and how far each of its rows has come."""

    def __init__(self, average: nn.Parameter, logs: Tensor) -> None:
        self.average = average
        self.logs = logs
        """(I,) the sum of the logs when the row was last brought up to date."""
        self.moved: tuple[Tensor, Tensor] | None = None
        """(n,) the rows that move in the current step, (n, ...) their averages before it."""
