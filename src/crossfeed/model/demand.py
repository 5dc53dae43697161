"""Demand: a vector per domain that changes with time.

Items come into fashion and out of fashion for all users. The training span is divided into periods,
and each domain has a vector for every boundary between two of them. The vector of a moment is
interpolated between its two neighbours and added to the user's. Its inner product with an item is
an item bias that changes with time, of a rank low enough for few clicks.

After training, the vector is the mean of the newest boundaries, because the last one has learned
from few clicks. A log without times has one moment, whose vector is the last boundary.

Source: item biases in time bins, Koren 2009 (KDD), equation 6.

Dims: B rows, D domains, P periods, E width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossfeed.config import ModelConfig

__all__ = ["Demand"]

_NEWEST = 1 / 12
"""Share of the boundaries whose mean is the vector after training."""


class Demand(nn.Module):
    """Vectors of moments for each domain."""

    def __init__(self, *, domains: int, config: ModelConfig) -> None:
        super().__init__()
        self._periods, self._width = config.periods, config.width
        rows = domains * (config.periods + 1) if config.periods else 0
        self.vectors = nn.Parameter(torch.zeros(rows, config.width))
        """(D (P + 1), E) at the start of each period and at the end of the last."""
        self.register_buffer("span", torch.zeros(2, dtype=torch.int64))
        self.span: Tensor
        """(2,) first and last time of training, in milliseconds; equal if unknown."""

    def forward(self, times: Tensor | None, domains: Tensor) -> Tensor:
        """Return (B, E) the vector of each row's moment.

        Args:
            times: (B,) milliseconds since 1970; None means after training, as any later time does.
            domains: (B,) the target domain of each row.
        """
        if not self._periods:
            return self.vectors.new_zeros(domains.shape[0], self._width)
        if times is None:
            return self._afterwards(domains)
        line = domains * (self._periods + 1)
        first, last = self.span[0], self.span[1]
        position = (times - first).double() / (last - first).clamp_min(1) * self._periods
        position = torch.where(first < last, position.clamp(0, self._periods), self._periods)
        period = position.floor().clamp_max(self._periods - 1)
        share = (position - period).to(self.vectors.dtype).unsqueeze(1)  # (B, 1)
        begin = line + period.long()
        # Not vectors[begin]: threads would add to its gradient in no fixed order.
        before, after = (self.vectors.index_select(0, row) for row in (begin, begin + 1))
        within = torch.lerp(before, after, share)
        if self.training:
            return within
        return torch.where((times > last).unsqueeze(1), self._afterwards(domains), within)

    def _afterwards(self, domains: Tensor) -> Tensor:
        """Return (B, E) the demand after training."""
        boundaries = self.vectors.view(-1, self._periods + 1, self._width)  # (D, P + 1, E)
        newest = max(1, round(_NEWEST * (self._periods + 1)))
        known = self.span[0] < self.span[1]
        after = torch.where(known, boundaries[:, -newest:].mean(dim=1), boundaries[:, -1])  # (D, E)
        return after.index_select(0, domains)
