"""The pools of a step: a player's vectors and biases of the items that a group of rows can choose.

Dims: b clicks of one group in W windows of time, N items of its pool, E width; `...` is empty, or n
domains.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from crossfeed.model.player import Player
from crossfeed.training.step.batches import Batch
from crossfeed.training.step.pool_groups import PoolGroup

__all__ = ["Pool", "pools_of"]


_WORTH_LOOKING_UP = 40
"""Items of a pool per candidate of a row above which a look-up beats a product over the pool, on
one of two cores (27 against 32 ms a step of 1,024 rows with 101 candidates of 4,096)."""


@dataclass(frozen=True)
class Pool:
    """The pool of one group of rows as one player sees it, made once a step."""

    group: PoolGroup
    """The rows, with the pool's items, the seen ones, and the probabilities of a sample."""
    vectors: Tensor
    """(..., N, E) of the items; zero for an item without a row."""
    biases: Tensor
    """(..., W, N) of the items in each window; -inf for an item that does not exist yet."""

    def values(self, users: Tensor) -> Tensor:
        """Return (..., b, N) the value of each item for each user (..., b, E)."""
        biases = self.group.of_windows(self.biases).to(users.dtype)
        if users.ndim == 2:
            return torch.addmm(biases, users, self.vectors.T)
        return torch.baddbmm(biases, users, self.vectors.mT)

    def values_at(self, users: Tensor, places: Tensor) -> Tensor:
        """Return (..., b, K) the values of the items at places (..., b, K) alone.

        A product over the whole pool costs less than K look-ups for each row, unless the pool has
        many times K items.
        """
        if self.vectors.ndim > 2 or self.group.size < _WORTH_LOOKING_UP * places.shape[-1]:
            return self.values(users).gather(-1, places)
        vectors = functional.embedding(places, self.vectors)  # (b, K, E)
        biases = self.group.of_windows(self.biases).gather(-1, places).unsqueeze(-1)  # (b, K, 1)
        return torch.baddbmm(biases.to(users.dtype), vectors, users.unsqueeze(-1)).squeeze(-1)


def pools_of(player: Player, batch: Batch) -> tuple[Pool, ...]:
    """Look up the pools of a batch's groups in a player's item layer, and add its demand."""
    looked_up = player.layer.pools([group.table for group in batch.groups])
    return tuple(
        _pool(player, group, vectors, biases)
        for group, (vectors, biases) in zip(batch.groups, looked_up, strict=True)
    )


def _pool(player: Player, group: PoolGroup, vectors: Tensor, biases: Tensor) -> Pool:
    domains = torch.tensor(group.domains, device=biases.device)
    of_demand = player.demand(group.demand.view(len(domains), *group.demand.shape[-3:]), domains)
    of_demand = of_demand.view(group.demand.shape[:-1])  # (..., W, N)
    own = group.with_all_items(biases).unsqueeze(-2)
    moved = (own + of_demand).masked_fill(group.static == 0, float("-inf"))
    return Pool(group, group.with_all_items(vectors, dim=-2), moved)
