"""The base of both players.

Dims: B rows, E width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from crossfeed.config import ModelConfig
from crossfeed.model.demand import DemandFunction
from crossfeed.model.items.layer import ItemLayer
from crossfeed.model.users.timelines import Timelines

__all__ = ["Player"]


class Player(nn.Module, ABC):
    """Both players read histories and weigh demand."""

    def __init__(self, *, domains: int, config: ModelConfig) -> None:
        super().__init__()
        self.demand = DemandFunction(domains=domains).requires_grad_(config.demand)

    @property
    @abstractmethod
    def layer(self) -> ItemLayer:
        """Return the layer with a value for each item."""

    @abstractmethod
    def users(self, timelines: Timelines) -> Tensor:
        """Return (B, E) each row's user in its target domain."""
