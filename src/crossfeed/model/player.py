"""The base of both players.

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
    """Both players read histories and know the demand by time."""

    def __init__(self, *, domains: int, config: ModelConfig) -> None:
        super().__init__()
        self.demand = Demand(domains=domains, config=config)

    @property
    @abstractmethod
    def layer(self) -> ItemLayer:
        """Return the layer with a value for each item."""

    @abstractmethod
    def read(self, timelines: Timelines) -> Tensor:
        """Return (B, E) the users by their histories only."""

    def users(self, timelines: Timelines, times: Tensor | None = None) -> Tensor:
        """Return (B, E) each row's user in its target domain.

        Args:
            timelines: the users' earlier clicks.
            times: (B,) the time to score for, see `Demand`.
        """
        return self.read(timelines) + self.demand(times, timelines.target_domains)  # type: ignore[no-any-return]
