"""MMoE: experts shared by all domains, mixed by one gate per domain.

Source: Ma et al. 2018 (KDD).
"""

from __future__ import annotations

from torch import Tensor, nn

from crossfeed.config import ModelConfig
from crossfeed.model.users.encoder import TimelineEncoder
from crossfeed.model.users.networks.layers import DomainLinear, Experts, mix
from crossfeed.model.users.timelines import Timelines

__all__ = ["MMoENetwork"]

_EXPERTS = 4


class MMoENetwork(nn.Module):
    """General user -> experts -> the domain's mixture of them -> the domain's tower."""

    def __init__(self, domains: int, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = TimelineEncoder(domains=domains, config=config)
        self.experts = Experts(_EXPERTS, config)
        self.gate = DomainLinear(domains, config.width, _EXPERTS)
        self.tower = DomainLinear(domains, config.width, config.width)

    def forward(self, timelines: Timelines, item_table: nn.Embedding) -> Tensor:
        """Return (B, E) each row's user in its target domain."""
        general, domains = self.encoder(timelines, item_table), timelines.target_domains
        mixed = mix(self.experts(general), self.gate(general, domains))
        return self.tower(mixed, domains)  # type: ignore[no-any-return]
