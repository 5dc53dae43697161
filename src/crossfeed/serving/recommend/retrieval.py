"""The best items for a user out of one or several sources: exact, or by a measured index.

Dims: I items, N items of a pool, E width.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossfeed.bundle import Bundle
from crossfeed.errors import RequestError
from crossfeed.scorer import Floats, Ints
from crossfeed.serving.recommend.rules import SOURCES, Source

__all__ = ["Candidates", "Found", "Retrieval", "Wanted", "best_first", "cosine"]

_DRAWS = 100
"""Different items that the generator draws, or as many as are asked for, if that is more."""

_POOL_ALONE: Set[Source] = frozenset(["pool"])
_NONE: Ints = np.zeros(0, np.int64)

_BLOCK = 64
"""Values of which only the largest is looked at first."""

_FEW = 0.1
"""Share of a pool up to which scoring what is allowed is less work than searching the rest."""


@dataclass(frozen=True)
class Wanted:
    """What is looked for."""

    domain: int
    user: Floats
    """(E,) the user's vector in the domain."""
    history: Ints
    """Known items of the user; the same history is shown the same draws."""
    allowed: NDArray[np.bool_]
    """(N,) positions that the rules allow."""
    sources: Set[Source]
    listed: Ints
    """Positions of the request's candidates."""
    k: int


@dataclass(frozen=True)
class Candidates:
    """Items that are to be ranked."""

    positions: Ints | None
    """Sorted; None is all that the rules allow of the pool."""
    source: str
    """How those of the pool were found."""
    listed: Ints
    drawn: Ints


@dataclass(frozen=True)
class Found:
    """The best items, best first."""

    positions: Ints
    scores: Floats
    sources: Sequence[str]
    """Of each item: the first that has it of `candidates`, `generator`, and the pool's `pool`, or
    `index` where an approximate index was asked."""


class Retrieval:
    """Searches the pools of a bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def check(self, sources: Set[Source], *, has_list: bool) -> None:
        """Check where a request wants its items from.

        Raises:
            RequestError: a source is unknown, is the list where there is none or not where there
                is one, or the generator where the bundle's score holds none.
        """
        if not sources or not sources <= set(SOURCES):
            raise _refused(sorted(sources), f"some of {', '.join(SOURCES)}")
        if has_list != ("candidates" in sources):
            raise _refused(sorted(sources), "candidates if and only if the request lists them")
        if "generator" in sources and not self._bundle.fused:
            raise _refused(
                sorted(sources), "pool and candidates: this bundle's score holds no generator"
            )

    def best(self, wanted: Wanted) -> Found:
        """Return the k best allowed items of all wanted sources, fewer only where fewer are."""
        return self.rank(wanted, self.find(wanted))

    def find(self, wanted: Wanted) -> Candidates:
        """Return the allowed items of all wanted sources, or the best of them."""
        listed, drawn = self._listed(wanted), self._drawn(wanted)
        if "pool" not in wanted.sources:
            return Candidates(np.union1d(listed, drawn), "pool", listed, drawn)
        positions, source = self._of_pool(wanted)
        if positions is not None and len(wanted.sources) > 1:
            positions = np.union1d(positions, np.union1d(listed, drawn))
        return Candidates(positions, source, listed, drawn)

    def rank(self, wanted: Wanted, candidates: Candidates) -> Found:
        """Return the k best of what was found."""
        if candidates.positions is None:
            positions, scores = self._best_of_pool(wanted)
        else:
            positions, scores = self._best_of(wanted, candidates.positions)
        if wanted.sources == _POOL_ALONE:
            return Found(positions, scores, [candidates.source] * len(positions))
        names = np.full(len(positions), candidates.source, dtype=object)
        names[np.isin(positions, candidates.drawn)] = "generator"
        names[np.isin(positions, candidates.listed)] = "candidates"
        return Found(positions, scores, names.tolist())

    def _listed(self, wanted: Wanted) -> Ints:
        if not len(wanted.listed):
            return _NONE
        return wanted.listed[wanted.allowed[wanted.listed]]

    def _drawn(self, wanted: Wanted) -> Ints:
        """Draw different allowed items by the generator's confidence (Gumbel top-k)."""
        if "generator" not in wanted.sources:
            return _NONE
        allowed = np.flatnonzero(wanted.allowed)
        items = allowed + self._bundle.catalogue.pool(wanted.domain).start
        logits = self._bundle.confidence_logits(wanted.user, items)
        seed = zlib.crc32(wanted.history.tobytes())
        noise = np.random.default_rng([wanted.domain, seed]).gumbel(size=len(items))
        count = max(_DRAWS, wanted.k)
        if len(items) <= count:
            return allowed
        return allowed[np.argpartition(-(logits + noise), count)[:count]]

    def _of_pool(self, wanted: Wanted) -> tuple[Ints | None, str]:
        """Return positions among which the k best of the pool are, and how they were found."""
        allowed = int(np.count_nonzero(wanted.allowed))
        if allowed <= _FEW * len(wanted.allowed):
            return np.flatnonzero(wanted.allowed), "pool"
        index = self._bundle.indexes.get(self._bundle.catalogue.domains[wanted.domain])
        if index is not None:
            found = index.search(wanted.user, wanted.allowed, wanted.k)
            if len(found) == min(wanted.k, allowed):
                return np.sort(found), "index"
        return None, "pool"

    def _best_of_pool(self, wanted: Wanted) -> tuple[Ints, Floats]:
        """Return the k best allowed items of a pool and their scores."""
        scores = self._scores(wanted, self._bundle.catalogue.pool(wanted.domain))
        np.copyto(scores, -np.inf, where=~wanted.allowed)
        best = best_first(scores, min(wanted.k, int(np.count_nonzero(wanted.allowed))))
        return best, scores[best]

    def _best_of(self, wanted: Wanted, positions: Ints) -> tuple[Ints, Floats]:
        """Return the k best of some positions, which are sorted, and their scores."""
        pool = self._bundle.catalogue.pool(wanted.domain)
        scores = self._scores(wanted, positions + pool.start)
        best = best_first(scores, wanted.k)
        return positions[best], scores[best]

    def _scores(self, wanted: Wanted, items: Ints | slice) -> Floats:
        scores: Floats = self._bundle.item_vectors[items] @ wanted.user
        scores += self._bundle.item_biases[items]
        return scores


def best_first(values: Floats, k: int) -> Ints:
    """Return the places of the k largest values, largest first.

    Of equal values the first comes first, so that an answer repeats.
    """
    places = _places_of_largest(values, k)
    return places[np.lexsort((places, -values[places]))[:k]]


def _places_of_largest(values: Floats, k: int) -> Ints:
    """Return the places of at least the k largest values, and of all that tie with the k-th.

    The k-th best of the blocks' largest values is at most the k-th best of all, so that only blocks
    which reach it are looked into.
    """
    if len(values) <= k:
        return np.arange(len(values))
    blocks = len(values) // _BLOCK
    if blocks < 2 * k:
        return np.flatnonzero(values >= _kth_largest(values, k))
    whole = blocks * _BLOCK
    # Block j is every so many-th value from j on: compared row by row, at the speed of the memory.
    largest = values[:whole].reshape(_BLOCK, blocks).max(axis=0)
    reaching = np.flatnonzero(largest >= _kth_largest(largest, k))
    inside = (reaching + np.arange(0, whole, blocks)[:, None]).ravel()
    places: Ints = np.concatenate([inside, np.arange(whole, len(values))])
    return places[values[places] >= _kth_largest(values[places], k)]


def _kth_largest(values: Floats, k: int) -> float:
    return float(np.partition(values, len(values) - k)[len(values) - k])


def cosine(vectors: Floats, vector: Floats) -> Floats:
    """Return (N,) the cosine of each of `vectors` (N, E) with `vector` (E,); 0 for a zero one."""
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(vector)
    return np.asarray(vectors @ vector / np.maximum(norms, 1e-12), dtype=np.float32)


def _refused(sources: Sequence[object], allowed: str) -> RequestError:
    return RequestError(
        f"sources must be {allowed}; they are {list(sources)!r}",
        field="sources",
        value=list(sources),
        allowed=allowed,
    )
