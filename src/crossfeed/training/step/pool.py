"""The pools of a step: what a player knows of the items that each group of rows can choose from.

Dims: b clicks of one group, N items of its pool, E width; `...` is nothing, or n domains.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from crossfeed.model.items.layer import ItemLayer, values_of
from crossfeed.training.step.batches import Batch
from crossfeed.training.step.pool_groups import PoolGroup

__all__ = ["Pool", "pools_of"]


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

    def masses(self, values: Tensor) -> Tensor:
        """Return (..., b, N) logits whose sums of exp are those over the pool; seen items: -inf."""
        return self.group.as_masses(values)


def pools_of(layer: ItemLayer, batch: Batch) -> tuple[Pool, ...]:
    """Look up the pools of a batch's groups in a player's item layer."""
    looked_up = layer.pools([group.items for group in batch.groups])
    return tuple(
        Pool(group, vectors, biases)
        for group, (vectors, biases) in zip(batch.groups, looked_up, strict=True)
    )
