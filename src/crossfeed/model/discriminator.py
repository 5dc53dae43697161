"""The discriminator scores the items of a target domain for a user; it is the served player.

Dims: B rows, N items of a pool, E width.
"""

from __future__ import annotations

from torch import Tensor

from crossfeed.config import ModelConfig
from crossfeed.model.items.layer import ItemLayer
from crossfeed.model.player import Player
from crossfeed.model.users.networks import NETWORKS
from crossfeed.model.users.timelines import Timelines

__all__ = ["Discriminator"]


class Discriminator(Player):
    """The player that tells candidates from clicks: user network and scoring layer."""

    def __init__(self, *, rows: int, domains: int, config: ModelConfig) -> None:
        super().__init__(domains=domains, config=config)
        self.network = NETWORKS[config.discriminator](domains, config)
        self.scoring_layer = ItemLayer(rows=rows, config=config)
        """The second fully connected layer of claim 6: domain-specific user + item -> score."""

    @property
    def layer(self) -> ItemLayer:
        """Return the scoring layer."""
        return self.scoring_layer

    def users(self, timelines: Timelines) -> Tensor:
        """Return (B, E) each row's user in its target domain."""
        return self.network(timelines, self.scoring_layer.vectors)  # type: ignore[no-any-return]
