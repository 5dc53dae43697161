"""The view of a model that evaluation and serving share.

Dims: B rows, T history items of all rows together, D domains, I items, N items of one pool,
R items with a row of their own, F features of demand, E width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from crossfeed.errors import UnknownDomainError

__all__ = [
    "Catalogue",
    "Doubles",
    "Floats",
    "Histories",
    "Ints",
    "Moment",
    "Scorer",
    "VectorScorer",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Catalogue:
    """The domains and their items: domain `d` owns the contiguous item indices of `pool(d)`.

    Within a domain, the trained items come first: those with a vector of their own, which filters
    chose from the training part. The others exist as well; demand alone scores them.
    """

    domains: tuple[str, ...]
    offsets: Ints
    """(D + 1,) first item index of each domain, then the number of items."""
    trained: Ints
    """(D,) number of trained items of each domain."""

    @property
    def items(self) -> int:
        """Return I, the number of items of all domains."""
        return int(self.offsets[-1])

    @property
    def rows(self) -> int:
        """Return R, the number of trained items of all domains."""
        return int(self.row_offsets[-1])

    @cached_property
    def row_offsets(self) -> Ints:
        """Return (D + 1,) the first row of each domain's trained items, then R."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.trained)])

    def pool(self, domain: int) -> slice:
        """Return the item indices of `domain`."""
        return slice(int(self.offsets[domain]), int(self.offsets[domain + 1]))

    def trained_rows(self, domain: int) -> slice:
        """Return the rows of the trained items of `domain`."""
        return slice(int(self.row_offsets[domain]), int(self.row_offsets[domain + 1]))

    def rows_of(self, items: Ints) -> Ints:
        """Return the row of each item index; -1 for an item without one."""
        domains = self.domain_of(items)
        places = items - self.offsets[domains]
        return np.where(places < self.trained[domains], self.row_offsets[domains] + places, -1)

    @cached_property
    def trained_items(self) -> Ints:
        """Return (R,) the item index of each row, ascending."""
        shifts = np.repeat(self.offsets[:-1] - self.row_offsets[:-1], self.trained)
        return np.arange(self.rows) + shifts

    def of_all_items(self, of_rows: Floats) -> Floats:
        """Return (I, ...) values of all items from those of the rows (R, ...): else zero."""
        if self.rows == self.items:
            return of_rows
        values = np.zeros((self.items, *of_rows.shape[1:]), of_rows.dtype)
        values[self.trained_items] = of_rows
        return values

    def domain_of(self, items: Ints) -> Ints:
        """Return the domain index of each item index."""
        return self._domain_of[items].astype(np.int64)

    @cached_property
    def _domain_of(self) -> NDArray[np.signedinteger]:
        """(I,) the domain of each item, in the smallest type that fits."""
        count = len(self.domains)
        domains = np.repeat(np.arange(count), np.diff(self.offsets))
        return domains.astype(np.min_scalar_type(count))

    def domain_index(self, domain: str) -> int:
        """Return the index of a domain's name.

        Raises:
            UnknownDomainError: naming the existing domains.
        """
        try:
            return self.domains.index(domain)
        except ValueError:
            raise UnknownDomainError(domain, self.domains) from None


@dataclass(frozen=True)
class Histories:
    """A jagged batch of histories: row `b` is `items[offsets[b]:offsets[b + 1]]`, newest last."""

    items: Ints
    """(T,) item indices, of all domains."""
    offsets: Ints
    """(B + 1,) where each row begins."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, row: int) -> Ints:
        """Return the item indices of one row, newest last."""
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    def rows(self) -> Ints:
        """Return (T,) the row that each item belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def rows_between(self, first: int, last: int) -> Histories:
        """Return the rows `first` to `last - 1` (or to the end) as a batch of their own."""
        offsets = self.offsets[first : last + 1]
        return Histories(self.items[offsets[0] : offsets[-1]], offsets - offsets[0])

    def where(self, kept: NDArray[np.bool_]) -> Histories:
        """Return the batch with only the items for which `kept` (T,) is true."""
        before = np.zeros(len(kept) + 1, np.int64)
        np.cumsum(kept, out=before[1:])
        return Histories(self.items[kept], before[self.offsets])

    @classmethod
    def joined(cls, parts: Sequence[Histories]) -> Histories:
        """Return the rows of one or more batches, one batch after another."""
        counts = np.concatenate([np.diff(part.offsets) for part in parts])
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        return cls(np.concatenate([part.items for part in parts]), offsets)

    @classmethod
    def of(cls, rows: Sequence[Sequence[int] | Ints]) -> Histories:
        """Build a batch from one sequence of item indices per row, newest last."""
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        items = [np.asarray(row, dtype=np.int64) for row in rows]
        return cls(np.concatenate(items) if items else np.zeros(0, np.int64), offsets)


class Moment(Protocol):
    """Everybody's clicks before a time, as far as a scorer may know them."""

    @property
    def time(self) -> int:
        """Return the time in milliseconds since 1970; nothing that happened then is known."""

    def demand(self, domain: int) -> Doubles:
        """Return (N, F) the demand of each item of the domain's pool (`crossfeed.data.demand`)."""

    def exists(self, domain: int) -> Bools:
        """Return (N,) whether each item of the domain's pool was clicked before."""


@runtime_checkable
class Scorer(Protocol):
    """Anything that scores the items of a domain for users known only by their histories."""

    @property
    def name(self) -> str:
        """Return the name shown in results."""

    def score(self, histories: Histories, domain: int, moment: Moment) -> Floats:
        """Score a domain's pool for each history; higher is better.

        Args:
            histories: B histories over all domains.
            domain: index of the target domain.
            moment: what everybody did before.

        Returns:
            (B, N) scores, N the size of `Catalogue.pool(domain)`. A row depends only on its own
            history and on the moment. Seen items, and items that do not exist yet, are scored like
            others.
        """


@runtime_checkable
class VectorScorer(Scorer, Protocol):
    """A scorer whose score is `user_vector . item_vector + item_bias`, so that it can be served."""

    @property
    def item_vectors(self) -> Floats:
        """Return (R, E) one vector per trained item; the vectors of all others are zero."""

    def item_biases(self, domain: int, moment: Moment) -> Floats:
        """Return (N,) one bias per item of the domain's pool."""

    def user_vectors(self, histories: Histories, domains: Ints) -> Floats:
        """Return (B, E) each user's vector in the target domain of its row."""
