"""What both players have in common.

Dims: B rows, E width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from crossfeed.config import ModelConfig
from crossfeed.model.demand import Demand
from crossfeed.model.items.layer import ItemLayer
from crossfeed.model.users.timelines import Timelines

__all__ = ["Player"]


class Player(nn.Module, ABC):
    """What both players have: a way to read histories, and what is in demand when."""

    def __init__(self, *, domains: int, config: ModelConfig) -> None:
        super().__init__()
        self.demand = Demand(domains=domains, config=config)

    @property
    @abstractmethod
    def layer(self) -> ItemLayer:
        """Return the layer that gives a value to each item."""

    @abstractmethod
    def read(self, timelines: Timelines) -> Tensor:
        """Return (B, E) what the histories alone say of the users."""

    def users(self, timelines: Timelines, times: Tensor | None = None) -> Tensor:
        """Return (B, E) each row's user in its target domain.

        Args:
            timelines: what the users clicked before.
            times: (B,) when they are asked about, see `Demand`.
        """
        return self.read(timelines) + self.demand(times, timelines.target_domains)  # type: ignore[no-any-return]
