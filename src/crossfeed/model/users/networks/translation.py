"""The default network: a translation from the general user to the domain-specific user.

Source: claim 6 of CN111931062A; the form follows translations in knowledge-graph embeddings
(Bordes et al. 2013): head + relation = tail, the relation being the domain.
"""

from __future__ import annotations

from torch import Tensor, nn

from crossfeed.config import ModelConfig
from crossfeed.model.users.encoder import TimelineEncoder
from crossfeed.model.users.timelines import Timelines

__all__ = ["TranslationNetwork"]


class TranslationNetwork(nn.Module):
    """General user + domain -> domain-specific user (the first of two translation steps)."""

    def __init__(self, domains: int, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = TimelineEncoder(domains=domains, config=config)
        self.relation = nn.Embedding(domains, config.width)
        self.output = nn.Linear(config.width, config.width)
        nn.init.zeros_(self.relation.weight)

    def forward(self, timelines: Timelines, item_table: nn.Embedding) -> Tensor:
        """Return (B, E) the domain-specific user of each row."""
        general = self.encoder(timelines, item_table)  # (B, E)
        return self.output(general + self.relation(timelines.target_domains))  # type: ignore[no-any-return]
