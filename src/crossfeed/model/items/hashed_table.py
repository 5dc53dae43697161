"""An item table with fewer rows than items: an item's vector is the sum of two rows.

Two hash functions choose the rows. Two items sometimes share one row, and hardly ever both. A
table with a tenth of the rows takes a tenth of the memory, with its optimiser's moments and its
average. In return, items that share a row influence each other.

Source: double hashing, Zhang et al. 2020 (RecSys), section 3.2; the functions are those of
Carter & Wegman 1979.

Dims: I items, R rows, E width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["HashedTable"]

_PRIME = 2**31 - 1
_FUNCTIONS = ((1_103_515_245, 12_345), (1_664_525, 1_013_904_223))
"""(a, b) of h(i) = ((a i + b) mod p) mod R; no product of both with an index leaves 64 bits."""


class HashedTable(nn.Embedding):
    """Stands for an `nn.Embedding` of all items; its `weight` (R, E) are the rows."""

    def __init__(self, *, items: int, rows: int, width: int) -> None:
        super().__init__(rows, width)
        self.items = items
        nn.init.normal_(self.weight, std=(2 * width) ** -0.5)  # a sum of two has the size of one

    def forward(self, input: Tensor) -> Tensor:
        """Return (..., E) the vectors of items (...)."""
        first, second = self.hashed(input)
        return super().forward(first) + super().forward(second)

    def hashed(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two rows of each item."""
        first, second = (
            (factor * items + summand) % _PRIME % self.num_embeddings
            for factor, summand in _FUNCTIONS
        )
        return first, second

    def whole(self) -> Tensor:
        """Return (I, E) the vectors of all items."""
        return self.forward(torch.arange(self.items, device=self.weight.device))
