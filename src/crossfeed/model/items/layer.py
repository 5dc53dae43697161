"""The item side of both players: a vector and a bias per trained item.

Dims: B users, R items with a row, N of a pool, W moments, E width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crossfeed.config import ModelConfig
from crossfeed.model.items.hashed_table import HashedTable

__all__ = ["ItemLayer"]


class ItemLayer(nn.Module):
    """A fully connected layer from a user's vector to one value per trained item.

    Its weight rows are the item vectors, so a slice of it gives the values of one domain's items.
    The generator's output layer and the discriminator's scoring layer are both of this form, and
    each player reads histories through its own layer's item vectors.
    """

    undecayed = ("biases",)

    def __init__(self, *, rows: int, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        if config.hashes(rows):
            self.vectors: nn.Embedding = HashedTable(
                items=rows, rows=config.table_rows, width=width
            )
        else:
            self.vectors = nn.Embedding(rows, width)
            nn.init.normal_(self.vectors.weight, std=width**-0.5)
        self.biases = nn.Parameter(torch.zeros(rows), requires_grad=config.id_bias)

    def item_vectors(self) -> Tensor:
        """Return (R, E) the vectors of all items."""
        table = self.vectors
        return table.whole() if isinstance(table, HashedTable) else table.weight

    def sparse_tables(self) -> list[nn.Parameter]:
        """Return the tables with gradients of looked-up rows only, if there are any.

        The rows of a divided table are not among this process's parameters.
        """
        if not self.vectors.sparse:
            return []
        whole = getattr(self.vectors, "weight", None)
        tables = [self.biases] if whole is None else [whole, self.biases]
        return [table for table in tables if table.requires_grad]

    def rows_of(self, items: Tensor | None) -> list[tuple[nn.Parameter, Tensor | None]]:
        """Return each sparse table with the rows (n,) of items, each once; None is all rows."""
        table = self.vectors
        rows = items
        if items is not None and isinstance(table, HashedTable):
            rows = torch.cat(table.hashed(items)).unique()  # type: ignore[no-untyped-call]
        return [(one, items if one is self.biases else rows) for one in self.sparse_tables()]

    def pools(self, pools: Sequence[slice | Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return the vectors (N, E) and biases (N,) of several pools at once.

        Args:
            pools: where each pool's items lie; slices ascend and do not overlap. For n pools padded
                to N items (n, N); then vectors are (n, N, E) and biases (n, N).
        """
        if self.vectors.sparse or isinstance(self.vectors, HashedTable):
            return self._looked_up(pools)
        # The gradient of each slice would be as large as the table. One split writes it once.
        slices = iter(self._slices([pool for pool in pools if isinstance(pool, slice)]))
        return [
            next(slices) if isinstance(pool, slice) else (self.vectors(pool), self.biases[pool])
            for pool in pools
        ]

    def _slices(self, pools: Sequence[slice]) -> list[tuple[Tensor, Tensor]]:
        sizes, end = [], 0
        for pool in pools:
            sizes += [pool.start - end, pool.stop - pool.start]
            end = pool.stop
        sizes.append(self.biases.shape[0] - end)
        vectors, biases = (
            torch.split(table, sizes)[1::2] for table in (self.vectors.weight, self.biases)
        )
        return list(zip(vectors, biases, strict=True))

    def _looked_up(self, pools: Sequence[slice | Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return the same with gradients of the rows alone, from one look-up for all pools."""
        device = self.biases.device
        items = [
            torch.arange(pool.start, pool.stop, device=device) if isinstance(pool, slice) else pool
            for pool in pools
        ]
        sizes, together = (
            [one.numel() for one in items],
            torch.cat([one.flatten() for one in items]),
        )
        biases = torch.gather(self.biases, 0, together, sparse_grad=self.vectors.sparse)
        looked_up = torch.split(self.vectors(together), sizes), torch.split(biases, sizes)
        return [
            (vectors.view(*one.shape, -1), own.view(one.shape))
            for one, vectors, own in zip(items, *looked_up, strict=True)
        ]
