"""STAR: each layer's weight is the shared weight times the domain's own, element by element.

Source: Sheng et al. 2021 (CIKM). Instead of partitioned batch normalisation, this is layer
normalisation with a scale and shift per domain, so a row never depends on the rest of its batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from crossfeed.config import ModelConfig
from crossfeed.model.users.dropout import Dropout
from crossfeed.model.users.encoder import TimelineEncoder
from crossfeed.model.users.networks.layers import by_domain
from crossfeed.model.users.timelines import Timelines

__all__ = ["STARNetwork"]


class STARNetwork(nn.Module):
    """General user -> partitioned norm -> two star layers, plus an auxiliary network."""

    def __init__(self, domains: int, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = TimelineEncoder(domains=domains, config=config)
        self.norm = nn.LayerNorm(config.width)
        self.scale = nn.Embedding(domains, config.width)
        self.shift = nn.Embedding(domains, config.width)
        self.hidden = _StarLayer(domains, config.width)
        self.dropout = Dropout(config.dropout)
        self.output = _StarLayer(domains, config.width)
        self.auxiliary = nn.Embedding(domains, config.width)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)
        nn.init.zeros_(self.auxiliary.weight)

    def forward(self, timelines: Timelines, item_table: nn.Embedding) -> Tensor:
        """Return (B, E) each row's user in its target domain."""
        domains = timelines.target_domains
        general = self.norm(self.encoder(timelines, item_table))
        rows = general * self.scale(domains) + self.shift(domains)
        rows = self.dropout(nn.functional.gelu(self.hidden(rows, domains)))
        return self.output(rows, domains) + self.auxiliary(domains)  # type: ignore[no-any-return]


class _StarLayer(nn.Module):
    """W = W_shared * W_domain, b = b_shared + b_domain."""

    def __init__(self, domains: int, width: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)
        self.shared = nn.Parameter(torch.empty(width, width).uniform_(-bound, bound))
        # Ones: all domains start the same.
        self.own = nn.Parameter(torch.ones(domains, width, width))
        self.shared_bias = nn.Parameter(torch.zeros(width))
        self.own_bias = nn.Parameter(torch.zeros(domains, width))

    def forward(self, rows: Tensor, domains: Tensor) -> Tensor:
        """Return (B, E) from rows (B, E)."""
        return by_domain(rows, domains, self.shared * self.own, self.shared_bias + self.own_bias)
