"""The view of a model that evaluation and serving share.

Dims: B rows, T history items of all rows together, D domains, I items, N items of one pool,
E width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from crossfeed.errors import UnknownDomainError

__all__ = ["Catalogue", "Histories", "Scorer", "VectorScorer"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Catalogue:
    """The domains and their items: domain `d` owns the contiguous item indices of `range(d)`.

    Within a domain, the items known to training come first; only these form its `pool`.
    """

    domains: tuple[str, ...]
    offsets: Ints
    """(D + 1,) first item index of each domain, then the number of items."""
    known: Ints
    """(D,) number of items of each domain known to training."""

    @property
    def items(self) -> int:
        """Return I, the number of items of all domains."""
        return int(self.offsets[-1])

    def pool(self, domain: int) -> slice:
        """Return the item indices of `domain` that can be scored."""
        first = int(self.offsets[domain])
        return slice(first, first + int(self.known[domain]))

    def domain_of(self, items: Ints) -> Ints:
        """Return the domain index of each item index; -1 (no item) gives -1."""
        return self._domain_of[items].astype(np.int64)

    @cached_property
    def _domain_of(self) -> NDArray[np.signedinteger]:
        """(I + 1,) the domain of each item, in the smallest type that fits, and -1 for no item."""
        count = len(self.domains)
        domains = np.append(np.repeat(np.arange(count), np.diff(self.offsets)), -1)
        return domains.astype(np.min_scalar_type(-max(count, 1)))

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
    times: Ints | None = None
    """(B,) the time to score each row for, in milliseconds since 1970; None is after the end of
    training, as in service."""

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
        times = None if self.times is None else self.times[first:last]
        return Histories(self.items[offsets[0] : offsets[-1]], offsets - offsets[0], times)

    def where(self, kept: NDArray[np.bool_]) -> Histories:
        """Return the batch with only the items for which `kept` (T,) is true."""
        before = np.zeros(len(kept) + 1, np.int64)
        np.cumsum(kept, out=before[1:])
        return Histories(self.items[kept], before[self.offsets], self.times)

    @classmethod
    def joined(cls, parts: Sequence[Histories]) -> Histories:
        """Return the rows of one or more batches, one batch after another, without times."""
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


@runtime_checkable
class Scorer(Protocol):
    """Anything that scores the items of a domain for users known only by their histories."""

    @property
    def name(self) -> str:
        """Return the name shown in results."""

    def score(self, histories: Histories, domain: int) -> Floats:
        """Score a domain's pool for each history; higher is better.

        Args:
            histories: B histories over all domains.
            domain: index of the target domain.

        Returns:
            (B, N) scores, N the size of `Catalogue.pool(domain)`. A row depends only on its own
            history and time. Seen items are scored like others.
        """


@runtime_checkable
class VectorScorer(Scorer, Protocol):
    """A scorer whose score is `user_vector . item_vector + item_bias`, so that it can be served."""

    @property
    def item_vectors(self) -> Floats:
        """Return (I, E) one vector per item."""

    @property
    def item_biases(self) -> Floats:
        """Return (I,) one bias per item."""

    def user_vectors(self, histories: Histories, domains: Ints) -> Floats:
        """Return (B, E) each user's vector in the target domain of its row."""
