"""The bias of an item by its demand: a small learned function of its features, per domain.

    f_d(x) = (a + a_d) . x + c . tanh(W x + s_d)

x are the features of `crossfeed.data.demand`, clipped to the range that training saw and scaled.
The domains share a, c and W, so that small domains learn from large ones; a_d and s_d are their
own. The value is added to the item's bias: a log-share, up to a constant per domain.

Dims: D domains, N items of a pool, F features, H hidden units; `...` are moments.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossfeed.data.demand import FEATURES

__all__ = ["DemandFunction"]

_HIDDEN = 16
"""H"""


class DemandFunction(nn.Module):
    """Learned biases from demand; without any training they are zero."""

    undecayed = ("linear", "linear_of_domain", "shift_of_domain", "output")

    def __init__(self, *, domains: int) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.zeros(FEATURES))
        self.linear_of_domain = nn.Parameter(torch.zeros(domains, FEATURES))
        self.shift_of_domain = nn.Parameter(torch.zeros(domains, _HIDDEN))
        self.hidden = nn.Linear(FEATURES, _HIDDEN)
        self.output = nn.Parameter(torch.zeros(_HIDDEN))
        for name, value in {"least": 0.0, "most": 0.0, "middle": 0.0, "scale": 1.0}.items():
            self.register_buffer(name, torch.full((FEATURES,), value))
        self.least: Tensor
        """(F,) and"""
        self.most: Tensor
        """(F,) the range that training saw."""
        self.middle: Tensor
        self.scale: Tensor

    @torch.no_grad()
    def fit_range(self, demand: Tensor) -> None:
        """Set the range and the scale of the features.

        Args:
            demand: (n, F) of items that exist, at moments of the training.
        """
        self.least.copy_(demand.amin(0))
        self.most.copy_(demand.amax(0))
        self.middle.copy_(demand.mean(0))
        self.scale.copy_(demand.std(0, correction=0).clamp_min(1e-3))

    def forward(self, demand: Tensor, domains: Tensor) -> Tensor:
        """Return (n, ..., N) the bias of each item.

        Args:
            demand: (n, ..., N, F) of the pools of n domains.
            domains: (n,) these domains.
        """
        inputs = (demand.clamp(self.least, self.most) - self.middle) / self.scale
        shape = (len(domains), *[1] * (demand.ndim - 2), -1)
        # Not a[domains]: threads would add to its gradient in no fixed order.
        own = self.linear_of_domain.index_select(0, domains).view(shape)
        shift = self.shift_of_domain.index_select(0, domains).view(shape)
        straight = (inputs * (self.linear + own)).sum(-1)
        bent = torch.tanh(self.hidden(inputs) + shift) @ self.output
        return straight + bent
