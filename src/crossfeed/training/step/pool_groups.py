"""The rows of a batch by target domain, as a step needs them.

On a processor each domain is a group of its own, without padding. A GPU takes about as long for
many domains as for one, and thirty single domains need thirty times as many launches. There n
domains are stacked, padded to the most rows and the largest pool. Padding of items has log pi =
+inf, so its mass is always 0. Padding of rows repeats a row; means leave it out, and it is dropped
when the rows come together again. No row is in padding of windows.

Dims: b clicks of one domain (in a stack the most), W their windows of time, N items of a pool (in
a stack the largest), R of them with a row, F features of demand, n domains of a stack, S pairs of
(row, seen item), K candidates. `...` is empty, or n.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from crossfeed.data.demand import FEATURES
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
    windows: Tensor
    """(..., b) the window of each row."""
    demand: Tensor
    """(..., W, N, F) the demand of each item as of each window."""
    static: Tensor
    """(..., W, N) the static proposal's weight of each item; 0 if it does not exist yet."""

    @property
    @abstractmethod
    def items(self) -> slice | Tensor:
        """Return the indices of the pools' items."""

    @property
    @abstractmethod
    def table(self) -> slice | Tensor:
        """Return the rows of the pools' trained items, which come first; of a stack (n, N)."""

    def with_all_items(self, values: Tensor, dim: int = -1) -> Tensor:
        """Return the values (..., N) of all items from those of the rows: zero without a row.

        Args:
            values: looked up by `table`.
            dim: the dimension of the rows.
        """
        missing = self.size - values.shape[dim]
        return nn.functional.pad(values, (0, 0) * (-1 - dim) + (0, missing)) if missing else values

    def of_windows(self, values: Tensor) -> Tensor:
        """Return (..., b, N) the values (..., W, N) of each row's window."""
        if values.ndim == 2:
            return values.index_select(0, self.windows)
        count = values.shape[-2]
        firsts = torch.arange(len(values), device=values.device).unsqueeze(-1) * count
        chosen = values.flatten(0, 1).index_select(0, (self.windows + firsts).flatten())
        return chosen.view(*self.windows.shape, -1)

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

    def of_pool(self, values: Tensor, positions: Tensor) -> Tensor:
        """Return the values (..., N) of the pools' items at positions (..., b) or (..., b, K)."""
        flat = positions.flatten(self.clicks.ndim - 1)
        return values.gather(-1, flat).view_as(positions)

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
            clicks = self.clicks.unsqueeze(-1)
            own = logits.gather(-1, clicks)
            logits = logits - self.sample.log_inclusion.unsqueeze(-2)
            logits = logits.scatter(-1, clicks, own)
        return logits.index_put(self.seen, logits.new_tensor(float("-inf")))

    def positions(self) -> Iterator[Tensor]:
        """Yield all tensors of whole numbers, for a copy to another device."""
        yield from (self.clicks, *self.seen, self.windows)
        if self.sample is not None:
            yield self.sample.items

    def shares(self) -> Iterator[Tensor]:
        """Yield all other tensors."""
        yield from (self.demand, self.static)
        if self.sample is not None:
            yield self.sample.log_inclusion

    def with_tensors(self, positions: Iterator[Tensor], shares: Iterator[Tensor]) -> Self:
        """Return the same with other tensors, in the order of `positions` and `shares`."""
        return replace(
            self,
            clicks=next(positions),
            seen=tuple(next(positions) for _ in self.seen),
            windows=next(positions),
            demand=next(shares),
            static=next(shares),
            sample=self.sample and PoolSample(next(positions), next(shares)),
        )


@dataclass(frozen=True)
class DomainRows(PoolGroup):
    """The rows with one target domain; they are consecutive."""

    rows: slice
    pool: slice
    """The domain's items."""
    table_rows: slice
    """The rows of the domain's trained items."""

    @property
    def items(self) -> slice | Tensor:
        """Return the indices of the pool's items."""
        return self.pool if self.sample is None else self.sample.items

    @property
    def table(self) -> slice | Tensor:
        """Return the (R,) rows of the trained items, which come first."""
        if self.sample is None:
            return self.table_rows
        rows: Tensor = self.sample.items - (self.pool.start - self.table_rows.start)
        return rows[rows < self.table_rows.stop]

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
    item_rows: Tensor
    """(n, N) the row of each item; some row for an item without one."""
    has_row: Tensor
    """(n, N) 1 if an item has a row, else 0."""

    @property
    def items(self) -> Tensor:
        """Return (n, N) the indices of the pools' items."""
        return self.sample.items

    @property
    def table(self) -> Tensor:
        """Return (n, N) the row of each item."""
        return self.item_rows

    def with_all_items(self, values: Tensor, dim: int = -1) -> Tensor:
        """Return the values (n, N, ...) with zero for items without a row."""
        return values * (self.has_row if dim == -1 else self.has_row.unsqueeze(-1)).to(values)

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
        """Return the real rows and items; padding of items repeats the first one."""
        items = self.sample.items
        is_item = items != items[:, :1]
        is_item[:, 0] = True
        return Padding(rows=self.row_shares, items=is_item)

    def most_distinct(self, candidates: int) -> Tensor:
        """Return (n,) the most different items that K candidates per row can be."""
        rows = (self.row_shares > 0).sum(-1)
        return torch.minimum(candidates * rows, self.padding.items.sum(-1))

    def positions(self) -> Iterator[Tensor]:
        """Yield all tensors of whole numbers."""
        yield from super().positions()
        yield from (self.rest, self.item_rows)

    def shares(self) -> Iterator[Tensor]:
        """Yield all tensors that are not of whole numbers."""
        yield from super().shares()
        yield from (self.row_shares, self.has_row)

    def with_tensors(self, positions: Iterator[Tensor], shares: Iterator[Tensor]) -> Self:
        """Return the same with other tensors, in the order of `positions` and `shares`."""
        moved = super().with_tensors(positions, shares)
        return replace(
            moved,
            rest=next(positions),
            item_rows=next(positions),
            row_shares=next(shares),
            has_row=next(shares),
        )


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
    clicks, rows, windows = (np.empty((len(run), most), np.int64) for _ in range(3))
    items, item_rows = (np.empty((len(run), largest), np.int64) for _ in range(2))
    shares = np.zeros(clicks.shape, np.float32)
    has_row = np.zeros(items.shape, np.float32)
    moments = max(len(group.static) for group in run)
    static = np.zeros((len(run), moments, largest), np.float32)
    demand = np.zeros((*static.shape, FEATURES), np.float32)
    inclusion = np.full(items.shape, np.inf, np.float32)
    for place, group in enumerate(run):
        count, size = _shape(group)
        clicks[place, :count] = group.clicks
        clicks[place, count:] = group.clicks[0]
        rows[place, :count] = np.arange(group.rows.start, group.rows.stop)
        rows[place, count:] = group.rows.start
        windows[place, :count] = group.windows
        windows[place, count:] = group.windows[0]
        shares[place, :count] = 1 / count
        static[place, : len(group.static), :size] = group.static
        demand[place, : len(group.static), :size] = group.demand
        if group.sample is None:
            items[place, :size] = np.arange(group.pool.start, group.pool.stop)
            inclusion[place, :size] = 0
        else:
            items[place, :size] = group.sample.items
            inclusion[place, :size] = group.sample.log_inclusion
        items[place, size:] = items[place, 0]
        of_rows = items[place] - (group.pool.start - group.table_rows.start)
        has_row[place] = of_rows < group.table_rows.stop
        item_rows[place] = np.where(has_row[place], of_rows, 0)
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
        windows=torch.from_numpy(windows),
        demand=torch.from_numpy(demand),
        static=torch.from_numpy(static),
        item_rows=torch.from_numpy(item_rows),
        has_row=torch.from_numpy(has_row),
    )
    return stacked, rows.ravel()
