"""The generator: its softmax over a domain's pool is its confidence in each candidate.

Dims: B rows, N items of a pool, E width.
"""

from __future__ import annotations

from torch import Tensor

from crossfeed.config import ModelConfig
from crossfeed.model.items.layer import ItemLayer
from crossfeed.model.player import Player
from crossfeed.model.users.encoder import TimelineEncoder
from crossfeed.model.users.linear import LinearEncoder
from crossfeed.model.users.timelines import Timelines

__all__ = ["Generator", "log_confidence"]


class Generator(Player):
    """Encoder and output layer of the player that proposes candidates (claim 1b)."""

    def __init__(self, *, rows: int, domains: int, config: ModelConfig) -> None:
        super().__init__(domains=domains, config=config)
        encoder = LinearEncoder if config.generator == "linear" else TimelineEncoder
        self.encoder = encoder(domains=domains, config=config)
        self.output_layer = ItemLayer(rows=rows, config=config)
        """The first fully connected layer of claim 6: items with high confidence are drawn as
        candidates for the discriminator's scoring layer."""

    @property
    def layer(self) -> ItemLayer:
        """Return the output layer."""
        return self.output_layer

    def users(self, timelines: Timelines) -> Tensor:
        """Return (B, E) each row's user in its target domain."""
        return self.encoder(timelines, self.output_layer.vectors)  # type: ignore[no-any-return]


def log_confidence(logits: Tensor, excluded: Tensor) -> Tensor:
    """Return (B, N) the log of the generator's confidence; -inf outside the row's pool.

    Args:
        logits: (B, N) the output layer's values of the domain's items.
        excluded: (B, N) true if the item is in the user's history.
    """
    return logits.masked_fill(excluded, float("-inf")).log_softmax(dim=-1)
