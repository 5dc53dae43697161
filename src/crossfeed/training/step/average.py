"""The running average of the weights, which is validated, kept and served.

Tables whose rows move one by one are averaged row by row: a row that rests is left alone, and what
it missed is made up for when it moves next or is asked for. With w the weight while it rested and k
the product of what each missed update would have kept, that is w + (average - w) k.

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
"""Log of what is left of the beginning: nothing, in a float32."""


class RunningAverage:
    """Follows players as they train; `players` are the averaged ones, where no row is behind."""

    def __init__(self, moving: Players, *, kept: float, tables: frozenset[str]) -> None:
        """Begin with a copy.

        Args:
            moving: the players that are trained.
            kept: what a step leaves of the average.
            tables: names of the parameters whose rows move one by one.
        """
        self._kept = kept
        self._players = copy.deepcopy(moving)
        self._updates = 0
        self._log = 0.0
        """Sum of the logs of what the updates kept so far."""
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
        """Return the averaged players, with every row up to date; not while a step is under way."""
        for value, rows in self._tables.items():
            behind = (rows.logs != self._log).nonzero().squeeze(1)
            weights = value.index_select(0, behind)
            rows.average.index_copy_(0, behind, self._caught_up(rows, behind, weights))
            rows.logs[behind] = self._log
        return self._players

    @torch.no_grad()
    def before_move(self, value: nn.Parameter, places: Tensor, weights: Tensor) -> None:
        """Make up for what rows missed while they rested; they move before the next update.

        Args:
            value: a table of the moving players, which moves once between two updates.
            places: (n,) its rows, none twice.
            weights: (n, ...) what the rows are now.
        """
        rows = self._tables[value]
        rows.moved = places, self._caught_up(rows, places, weights)

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after a step into the average."""
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
        """Take over what `to_checkpoint` returned."""
        self._updates, self._log = checkpoint["updates"], checkpoint["log"]
        self._players.load_state_dict(checkpoint["players"])
        for rows, logs in zip(self._tables.values(), checkpoint["rows"], strict=True):
            rows.logs.copy_(logs)

    def _caught_up(self, rows: _Rows, places: Tensor, weights: Tensor) -> Tensor:
        """Return (n, ...) the averages of rows that have rested at their weights."""
        missed = self._log - rows.logs[places]
        factors = missed.exp().to(weights).reshape(-1, *[1] * (weights.ndim - 1))
        return torch.addcmul(weights, rows.average.index_select(0, places) - weights, factors)


class _Rows:
    """The average of one table, and how far each of its rows has come."""

    def __init__(self, average: nn.Parameter, logs: Tensor) -> None:
        self.average = average
        self.logs = logs
        """(I,) what the sum of the logs was when the row was last brought up to date."""
        self.moved: tuple[Tensor, Tensor] | None = None
        """(n,) the rows that move in the step under way, (n, ...) their averages before it."""
