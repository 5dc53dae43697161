"""PLE: shared experts and experts per domain, mixed level by level.

Source: Tang et al. 2020 (RecSys). There the shared branch also sees the experts of every other
domain. Here a row computes only its own domain's experts, so its cost does not grow with the number
of domains.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossfeed.config import ModelConfig
from crossfeed.model.users.encoder import TimelineEncoder
from crossfeed.model.users.networks.layers import DomainLinear, Experts, mix
from crossfeed.model.users.timelines import Timelines

__all__ = ["PLENetwork"]

_SHARED_EXPERTS = 2


class PLENetwork(nn.Module):
    """General user -> two levels of shared and own experts -> the domain's tower."""

    def __init__(self, domains: int, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = TimelineEncoder(domains=domains, config=config)
        self.lower = _Level(domains, config)
        self.shared_gate = nn.Linear(config.width, _SHARED_EXPERTS + 1)
        self.upper = _Level(domains, config)
        self.tower = DomainLinear(domains, config.width, config.width)

    def forward(self, timelines: Timelines, item_table: nn.Embedding) -> Tensor:
        """Return (B, E) each row's user in its target domain."""
        general, domains = self.encoder(timelines, item_table), timelines.target_domains
        own, experts = self.lower(general, general, domains)
        shared = mix(experts, self.shared_gate(general))
        own, _ = self.upper(own, shared, domains)
        return self.tower(own, domains)  # type: ignore[no-any-return]


class _Level(nn.Module):
    """One extraction level: the domain's mixture of the shared experts and its own."""

    def __init__(self, domains: int, config: ModelConfig) -> None:
        super().__init__()
        self.shared_experts = Experts(_SHARED_EXPERTS, config)
        self.own_expert = DomainLinear(domains, config.width, config.width)
        self.own_gate = DomainLinear(domains, config.width, _SHARED_EXPERTS + 1)

    def forward(self, own: Tensor, shared: Tensor, domains: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mixture (B, E) and its experts (B, X, E)."""
        expert = nn.functional.gelu(self.own_expert(own, domains)).unsqueeze(1)
        experts = torch.cat([self.shared_experts(shared), expert], dim=1)
        return mix(experts, self.own_gate(own, domains)), experts
