"""The rows of a batch by target domain, as a step needs them.

On a processor each domain is a group of its own, without padding. A GPU takes about as long for
many domains as for one, and thirty single domains need thirty times as many launches. There n
domains are stacked, padded to the most rows and the largest pool. Padding of items has log pi =
+inf, so its mass is always 0. Padding of rows repeats a row; means leave it out, and it is dropped
when the rows come together again.

Dims: b clicks of one domain (in a stack the most), N items of a pool (in a stack the largest), n
domains of a stack, S pairs of (row, seen item), K candidates. `...` is empty, or n.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from crossfeed.model.gaps import Padding
from crossfeed.scorer import Ints
from crossfeed.training.step.pool_sampling import PoolSample

__all__ = ["DomainRows", "DomainStack", "PoolGroup", "stack"]

_MOST_PADDING = 2
"""Most pairs (row, item) of a stack, as a multiple of the pairs of its single domains."""
_FREE = 1 << 20
"""Pairs of a stack that are always allowed: a GPU saves nothing by avoiding them."""


@dataclass(frozen=True)
class PoolGroup(ABC):
    """Rows of a batch, of one domain or several."""

    domains: tuple[int, ...]
    names: tuple[str, ...]
    clicks: Tensor
    """(..., b) position in the pool of each row's click."""
    seen: tuple[Tensor, ...]
    """(S,) each: domain (in a stack), row and pool position of every item that the user saw before,
    except the click; without repeats. These items are not candidates."""
    sample: PoolSample | None
    """The items that stand for a pool that is too large to use whole; positions refer to it. A
    stack always has one."""

    @property
    @abstractmethod
    def items(self) -> slice | Tensor:
        """Return the places of the pools' items in the tables."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Return N."""

    @property
    def padding(self) -> Padding | None:
        """Return the real rows and items, if there is padding."""
        return None

    @property
    @abstractmethod
    def left_out(self) -> Tensor:
        """Return (...) how many items of each pool are not in the sample."""

    @abstractmethod
    def most_distinct(self, candidates: int) -> Tensor:
        """Return (...) the most different items that K candidates per row can be."""

    def of_pool(self, table: Tensor, positions: Tensor) -> Tensor:
        """Return the values (..., N) of the pools' items at positions (..., b) or (..., b, K)."""
        flat = positions.flatten(self.clicks.ndim - 1)
        return table.gather(-1, flat).view_as(positions)

    def item_indices(self, positions: Tensor) -> Tensor:
        """Return the item indices of positions (..., b) or (..., b, K)."""
        if isinstance(self.items, slice):
            return torch.add(positions, self.items.start)
        return self.of_pool(self.items, positions)

    def log_inclusion(self, positions: Tensor) -> Tensor | float:
        """Return (..., b, K) log pi of positions; a row's own click is always there.

        Args:
            positions: (..., b, K) in the pools of the rows.
        """
        if self.sample is None:
            return 0.0
        own = positions == self.clicks.unsqueeze(-1)
        return self.of_pool(self.sample.log_inclusion, positions).masked_fill(own, 0.0)

    def as_masses(self, logits: Tensor) -> Tensor:
        """Return logits (..., b, N) less log pi: sums over a sample are those over the pool.

        Seen items become -inf. The result is float32, whatever the type of `logits`.
        """
        logits = logits.float()
        if self.sample is not None:
            inclusion = self.sample.log_inclusion
            own = self.of_pool(inclusion, self.clicks).unsqueeze(-1)
            logits = logits - inclusion.unsqueeze(-2)
            logits = logits.scatter_add(-1, self.clicks.unsqueeze(-1), own)
        return logits.index_put(self.seen, logits.new_tensor(float("-inf")))

    def positions(self) -> Iterator[Tensor]:
        """Yield all tensors of whole numbers, for a copy to another device."""
        yield from (self.clicks, *self.seen)
        if self.sample is not None:
            yield self.sample.items

    def shares(self) -> Iterator[Tensor]:
        """Yield all other tensors."""
        if self.sample is not None:
            yield self.sample.log_inclusion

    def with_tensors(self, positions: Iterator[Tensor], shares: Iterator[Tensor]) -> Self:
        """Return the same with other tensors, in the order of `positions` and `shares`."""
        return replace(
            self,
            clicks=next(positions),
            seen=tuple(next(positions) for _ in self.seen),
            sample=self.sample and PoolSample(next(positions), next(shares)),
        )


@dataclass(frozen=True)
class DomainRows(PoolGroup):
    """The rows with one target domain; they are consecutive."""

    rows: slice
    pool: slice
    """The domain's items."""

    @property
    def items(self) -> slice | Tensor:
        """Return the places of the pool's items in the tables."""
        return self.pool if self.sample is None else self.sample.items

    @property
    def size(self) -> int:
        """Return N, how many items the step uses."""
        if self.sample is None:
            return int(self.pool.stop - self.pool.start)
        return len(self.sample.items)

    @property
    def left_out(self) -> Tensor:
        """Return how many items of the pool are not in the sample."""
        return torch.tensor(self.pool.stop - self.pool.start - self.size)

    def most_distinct(self, candidates: int) -> Tensor:
        """Return the most different items that K candidates per row can be."""
        return torch.tensor(min(candidates * len(self.clicks), self.size))


@dataclass(frozen=True)
class DomainStack(PoolGroup):
    """The rows of several domains, processed together."""

    sample: PoolSample
    """(n, N) items; padding repeats an item and has log pi = +inf."""
    rest: Tensor
    """(n,) `left_out`"""
    row_shares: Tensor
    """(n, b) weight of each row in its domain's mean: equal for all rows, 0 for padding."""

    @property
    def items(self) -> Tensor:
        """Return (n, N) the places of the pools' items in the tables."""
        return self.sample.items

    @property
    def size(self) -> int:
        """Return N."""
        return self.sample.items.shape[-1]

    @property
    def left_out(self) -> Tensor:
        """Return (n,) how many items of each pool are not in the sample."""
        return self.rest

    @cached_property
    def padding(self) -> Padding:
        """Return the real rows and items."""
        return Padding(rows=self.row_shares, items=self.sample.log_inclusion.isfinite())

    def most_distinct(self, candidates: int) -> Tensor:
        """Return (n,) the most different items that K candidates per row can be."""
        rows = (self.row_shares > 0).sum(-1)
        return torch.minimum(candidates * rows, self.padding.items.sum(-1))

    def positions(self) -> Iterator[Tensor]:
        """Yield all tensors of whole numbers."""
        yield from super().positions()
        yield self.rest

    def shares(self) -> Iterator[Tensor]:
        """Yield all tensors that are not of whole numbers."""
        yield from super().shares()
        yield self.row_shares

    def with_tensors(self, positions: Iterator[Tensor], shares: Iterator[Tensor]) -> Self:
        """Return the same with other tensors, in the order of `positions` and `shares`."""
        moved = super().with_tensors(positions, shares)
        return replace(moved, rest=next(positions), row_shares=next(shares))


def stack(
    groups: Sequence[DomainRows], *, rows: int
) -> tuple[tuple[DomainStack, ...], tuple[Tensor, Tensor]]:
    """Stack domains with pools of about the same size, as long as that needs little padding.

    Args:
        groups: the domains of a batch.
        rows: B, of the batch.

    Returns:
        The stacks, and `Batch.stacking`.
    """
    stacks, sources = [], []
    places, first = np.empty(rows, np.int64), 0
    for run in _runs(sorted(groups, key=lambda group: group.size)):
        made, source = _stacked(run)
        is_row = made.row_shares.numpy().ravel() > 0
        places[source[is_row]] = first + np.flatnonzero(is_row)
        stacks.append(made)
        sources.append(source)
        first += len(source)
    return tuple(stacks), (torch.from_numpy(np.concatenate(sources)), torch.from_numpy(places))


def _runs(groups: Sequence[DomainRows]) -> Iterator[list[DomainRows]]:
    """Divide the domains into runs of neighbours with little padding."""
    run: list[DomainRows] = []
    for group in groups:
        longer = [*run, group]
        rows, items = (max(one) for one in zip(*map(_shape, longer), strict=True))
        exact = sum(rows * items for rows, items in map(_shape, longer))
        if run and len(longer) * rows * items > max(_MOST_PADDING * exact, _FREE):
            yield run
            longer = [group]
        run = longer
    if run:
        yield run


def _shape(group: DomainRows) -> tuple[int, int]:
    return len(group.clicks), group.size


def _stacked(run: Sequence[DomainRows]) -> tuple[DomainStack, Ints]:
    """Return a stack, and (n b,) the batch's row for each of its rows."""
    most, largest = (max(one) for one in zip(*map(_shape, run), strict=True))
    clicks, rows = (np.empty((len(run), most), np.int64) for _ in range(2))
    items = np.empty((len(run), largest), np.int64)
    shares = np.zeros(clicks.shape, np.float32)
    inclusion = np.full(items.shape, np.inf, np.float32)
    for place, group in enumerate(run):
        count, size = _shape(group)
        clicks[place, :count] = group.clicks
        clicks[place, count:] = group.clicks[0]
        rows[place, :count] = np.arange(group.rows.start, group.rows.stop)
        rows[place, count:] = group.rows.start
        shares[place, :count] = 1 / count
        if group.sample is None:
            items[place, :size] = np.arange(group.pool.start, group.pool.stop)
            inclusion[place, :size] = 0
        else:
            items[place, :size] = group.sample.items
            inclusion[place, :size] = group.sample.log_inclusion
        items[place, size:] = items[place, 0]
    domain_of = torch.arange(len(run))
    seen = [domain_of.repeat_interleave(torch.tensor([len(group.seen[0]) for group in run]))]
    seen += [torch.cat(each) for each in zip(*(group.seen for group in run), strict=True)]
    stacked = DomainStack(
        rest=torch.stack([group.left_out for group in run]),
        domains=tuple(domain for group in run for domain in group.domains),
        names=tuple(name for group in run for name in group.names),
        clicks=torch.from_numpy(clicks),
        seen=tuple(seen),
        sample=PoolSample(torch.from_numpy(items), torch.from_numpy(inclusion)),
        row_shares=torch.from_numpy(shares),
    )
    return stacked, rows.ravel()
