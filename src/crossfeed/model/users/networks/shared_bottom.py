"""Shared bottom: one network for all domains below one layer per domain.

Source: Caruana 1997.
"""

from __future__ import annotations

from torch import Tensor, nn

from crossfeed.config import ModelConfig
from crossfeed.model.users.encoder import TimelineEncoder
from crossfeed.model.users.networks.layers import DomainLinear, feed_forward
from crossfeed.model.users.timelines import Timelines

__all__ = ["SharedBottomNetwork"]


class SharedBottomNetwork(nn.Module):
    """General user -> shared network -> tower of the target domain."""

    def __init__(self, domains: int, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = TimelineEncoder(domains=domains, config=config)
        self.bottom = feed_forward(config)
        self.tower = DomainLinear(domains, config.width, config.width)

    def forward(self, timelines: Timelines, item_table: nn.Embedding) -> Tensor:
        """Return (B, E) each row's user in its target domain."""
        shared = self.bottom(self.encoder(timelines, item_table))
        return self.tower(shared, timelines.target_domains)  # type: ignore[no-any-return]
