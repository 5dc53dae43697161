"""The pools of a step: what a player knows of the items that each group of rows can choose from.

Dims: b clicks of one group, N items of its pool, E width; `...` is nothing, or n domains.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from crossfeed.model.items.layer import ItemLayer, values_of
from crossfeed.training.step.batches import Batch
from crossfeed.training.step.pool_groups import PoolGroup

__all__ = ["Pool", "pools_of"]


_WORTH_LOOKING_UP = 40
"""Items of a pool for each candidate of a row, from which on one of two cores takes longer for a
product over the pool (32 against 27 ms a step of 1,024 rows with 101 candidates of 4,096)."""


@dataclass(frozen=True)
class Pool:
    """The pool of one group of rows as one player sees it, made once a step."""

    group: PoolGroup
    """The rows; says which items the pool has, which the rows saw, and how likely a sample was."""
    vectors: Tensor
    """(..., N, E) of the items."""
    biases: Tensor
    """(..., N) of the items."""

    def values(self, users: Tensor) -> Tensor:
        """Return (..., b, N) the value of each item for each user (..., b, E)."""
        return values_of(users, self.vectors, self.biases)

    def values_at(self, users: Tensor, places: Tensor) -> Tensor:
        """Return (..., b, K) the values of the items at places (..., b, K) alone.

        One product over the whole pool costs less than looking up K vectors for each row, unless
        the pool has many times K items.
        """
        if self.vectors.ndim > 2 or self.group.size < _WORTH_LOOKING_UP * places.shape[-1]:
            return self.values(users).gather(-1, places)
        vectors = functional.embedding(places, self.vectors)  # (b, K, E)
        biases = self.biases[places].unsqueeze(-1)  # (b, K, 1)
        return torch.baddbmm(biases, vectors, users.unsqueeze(-1)).squeeze(-1)


def pools_of(layer: ItemLayer, batch: Batch) -> tuple[Pool, ...]:
    """Look up the pools of a batch's groups in a player's item layer."""
    looked_up = layer.pools([group.items for group in batch.groups])
    return tuple(
        Pool(group, vectors, biases)
        for group, (vectors, biases) in zip(batch.groups, looked_up, strict=True)
    )
