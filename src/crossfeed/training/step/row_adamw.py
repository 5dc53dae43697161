"""AdamW for tables with few used rows per step; the result equals AdamW on the whole table.

AdamW on a whole table moves every row in every step: rows without a gradient decay, and their
momentum moves them further. Here unused rows are not updated. A row catches up, in closed form,
before a step uses it again. So the cost of a step depends on its rows, not on the table.

With w, m, v the weight and the moments of a row after step s, the row after step t without any
gradient between is

    w' = (w - m / (sqrt(v) + eps) . C_s) . P_t / P_s,   m' = beta1^(t - s) m,   v' = beta2^(t - s) v
    C_s = sum_j rate_j f_j r^(j - s) P_s / P_j over j = s + 1 ... t
    r = beta1 / sqrt(beta2),   f_j = sqrt(1 - beta2^j) / (1 - beta1^j),
    P_t = product of (1 - rate_j decay) over j = 1 ... t

up to the place of eps and rounding.

Source: Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019, algorithm 2, line 12.

Dims: I rows of a table, n rows that a step uses, E width, T steps since all rows caught up.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from crossfeed.training.step.average import RunningAverage

__all__ = ["BETAS", "EPSILON", "RowAdamW"]

BETAS, EPSILON = (0.9, 0.999), 1e-8  # AdamW's own
_RATIO = BETAS[0] / BETAS[1] ** 0.5
_WINDOW = 256
"""Steps after which momentum no longer moves a row: r^256 is 2e-12."""


class RowAdamW(Optimizer):
    """Moves tables by sparse gradients."""

    def __init__(
        self,
        groups: list[dict[str, Any]],  # Any: torch's own
        *,
        rate: float,
        average: RunningAverage | None,
    ) -> None:
        """Prepare to move tables.

        Args:
            groups: tables with their weight decay.
            rate: step size.
            average: gets the rows that are about to move.
        """
        super().__init__([group for group in groups if group["params"]], {"lr": rate})
        self._average = average
        self._rests: dict[nn.Parameter, _Rests] = {}
        for group in self.param_groups:
            for table in group["params"]:
                self._rests[table] = _Rests(table)
                self.state[table] = {
                    "step": 0,
                    "exp_avg": torch.zeros_like(table, requires_grad=False),
                    "exp_avg_sq": torch.zeros_like(table, requires_grad=False),
                }

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # none is ever given
        """Move the rows that have a gradient; they must have been caught up."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                self.state[table]["step"] += 1
                self._rests[table].advance(
                    self.state[table]["step"], rate=group["lr"], decay=group["weight_decay"]
                )
                gradient = table.grad.coalesce()
                places = gradient._indices()[0]
                rows = table.index_select(0, places)
                if self._average is not None:
                    self._average.before_move(table, places, rows)
                self._move(table, places, rows, gradient._values(), group)

    @torch.no_grad()
    def catch_up(self, table: nn.Parameter, places: Tensor | None) -> None:
        """Apply to rows the steps that they missed.

        Args:
            table: one of the tables.
            places: (n,) its rows, without repeats; None for all.
        """
        state, rests = self.state[table], self._rests[table]
        if rests.steps == 0:
            return
        if places is None:
            self.catch_up(table, rests.behind())
            rests.restart()
            return
        names = ("exp_avg", "exp_avg_sq")
        kept, drift, ages = rests.missed(places)
        shape = (-1, *[1] * (table.ndim - 1))
        first, second = (state[name].index_select(0, places) for name in names)
        pull = first / second.sqrt().add_(EPSILON)
        rows = table.index_select(0, places)
        rows.addcmul_(pull, drift.to(rows).view(shape), value=-1).mul_(kept.to(rows).view(shape))
        table.index_copy_(0, places, rows)
        for name, moment, beta in zip(names, (first, second), BETAS, strict=True):
            factor = torch.pow(beta, ages).to(moment).view(shape)
            state[name].index_copy_(0, places, moment.mul_(factor))
        rests.caught_up(places)

    def state_dict(self) -> dict[str, Any]:  # Any: torch's own
        """Return the moments, the step counts, and the last step of each row."""
        return {**super().state_dict(), "rests": [one.state_dict() for one in self._rests.values()]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # Any: torch's own
        """Load the result of `state_dict`; in version 0.1 unused rows never caught up."""
        given = dict(state_dict)
        rests = given.pop("rests", [None] * len(self._rests))
        super().load_state_dict(given)
        for own, kept in zip(self._rests.values(), rests, strict=True):
            own.load_state_dict(kept)

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
        first, second = (state[name].index_select(0, places) for name in ("exp_avg", "exp_avg_sq"))
        first.lerp_(gradient, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        state["exp_avg"].index_copy_(0, places, first)
        state["exp_avg_sq"].index_copy_(0, places, second)
        first_share, second_share = (1 - beta ** state["step"] for beta in BETAS)
        spread = second.sqrt_().div_(second_share**0.5).add_(EPSILON)
        rows.mul_(1 - group["lr"] * group["weight_decay"])
        table.index_copy_(0, places, rows.addcdiv_(first, spread, value=-group["lr"] / first_share))
        self._rests[table].caught_up(places)


class _Rests:
    """The last step of each row of a table, and the decay and momentum of the steps since."""

    def __init__(self, table: nn.Parameter) -> None:
        device = table.device
        self.steps = 0
        """T"""
        self.last = torch.zeros(len(table), dtype=torch.int32, device=device)
        """(I,) the step after which each row was last up to date, 0 to T."""
        self._log_kept = torch.zeros(_WINDOW, dtype=torch.float64, device=device)
        """(T + 1,) log P_s of each step, and room for more."""
        self._drift = torch.zeros(_WINDOW, dtype=torch.float64, device=device)
        """(T + 1,) C_s of each step, and room for more."""
        ages = torch.arange(_WINDOW, 0, -1, dtype=torch.float64, device=device)
        self._ratios = torch.pow(_RATIO, ages)

    def advance(self, step: int, *, rate: float, decay: float) -> None:
        """Count a step, the `step`-th of the training."""
        self.steps += 1
        now = self.steps
        if now == len(self._drift):
            room = torch.zeros_like(self._drift)
            self._log_kept = torch.cat([self._log_kept, room])
            self._drift = torch.cat([self._drift, room])
        kept = self._log_kept
        kept[now] = kept[now - 1] + math.log1p(-rate * decay)
        speed = rate * (1 - BETAS[1] ** step) ** 0.5 / (1 - BETAS[0] ** step)
        window = slice(max(0, now - _WINDOW), now)
        ratios = self._ratios[window.start - now :]
        self._drift[window] += speed * ratios * (kept[window] - kept[now]).exp()

    def missed(self, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (n,) each: P_t / P_s, C_s and t - s of rows."""
        last = self.last.index_select(0, places).long()
        kept = (self._log_kept[self.steps] - self._log_kept[last]).exp()
        return kept, self._drift[last], (self.steps - last).double()

    def behind(self) -> Tensor:
        """Return the rows that are not up to date."""
        return (self.last != self.steps).nonzero().squeeze(1)

    def caught_up(self, places: Tensor) -> None:
        """Note that rows are up to date."""
        self.last.index_fill_(0, places, self.steps)

    def restart(self) -> None:
        """Forget the steps so far, when all rows are up to date."""
        self.steps = 0
        self.last.zero_()
        self._log_kept, self._drift = (torch.zeros_like(self._ratios) for _ in range(2))

    def state_dict(self) -> dict[str, Any]:  # Any: torch's own
        """Return everything as tensors and plain values."""
        lines = {"log_kept": self._log_kept, "drift": self._drift}
        return {
            "steps": self.steps,
            "last": self.last,
            **{name: line[: self.steps + 1].clone() for name, line in lines.items()},
        }

    def load_state_dict(self, state: dict[str, Any] | None) -> None:  # Any: torch's own
        """Load the result of `state_dict`; None means that all rows are up to date."""
        self.restart()
        if state is None:
            return
        self.steps = state["steps"]
        self.last.copy_(state["last"])
        room = self.last.new_zeros(_WINDOW, dtype=torch.float64)
        self._log_kept, self._drift = (
            torch.cat([state[name].to(room), room]) for name in ("log_kept", "drift")
        )
