"""PEPNet: gates that know domain and user scale the input and every layer.

Source: Chang et al. 2023 (KDD). The gates see only the domain and the user: with an item in them,
the score would no longer be the inner product that serving needs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossfeed.config import ModelConfig
from crossfeed.model.users.dropout import Dropout
from crossfeed.model.users.encoder import TimelineEncoder
from crossfeed.model.users.networks.layers import DomainLinear
from crossfeed.model.users.timelines import Timelines

__all__ = ["PEPNetwork"]

_LARGEST_GATE = 2.0
"""gamma: a gate lies between 0 and this, 1 in the beginning."""


class PEPNetwork(nn.Module):
    """General user, gated by domain (EPNet) -> layers, each gated by domain and user (PPNet)."""

    def __init__(self, domains: int, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = TimelineEncoder(domains=domains, config=config)
        self.domain = nn.Embedding(domains, config.width)
        self.input_gate = _Gate(config)
        self.hidden_gate = _Gate(config)
        self.hidden = nn.Linear(config.width, config.width)
        self.dropout = Dropout(config.dropout)
        self.output = DomainLinear(domains, config.width, config.width)

    def forward(self, timelines: Timelines, item_table: nn.Embedding) -> Tensor:
        """Return (B, E) each row's user in its target domain."""
        general, domains = self.encoder(timelines, item_table), timelines.target_domains
        # The gates read the prior but give it no gradient.
        prior = torch.cat([self.domain(domains), general.detach()], dim=1)  # (B, 2E)
        rows = general * self.input_gate(prior)
        rows = self.dropout(nn.functional.gelu(self.hidden(rows)) * self.hidden_gate(prior))
        return self.output(rows, domains)  # type: ignore[no-any-return]


class _Gate(nn.Module):
    """gamma * sigmoid(W2 relu(W1 x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * config.width, config.width),
            nn.ReLU(),
            nn.Linear(config.width, config.width),
            nn.Sigmoid(),
        )

    def forward(self, prior: Tensor) -> Tensor:
        """Return (B, E) factors for a prior (B, 2E)."""
        return _LARGEST_GATE * self.layers(prior)  # type: ignore[no-any-return]
