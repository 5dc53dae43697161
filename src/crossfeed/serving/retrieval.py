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
from crossfeed.serving.rules import SOURCES, Source

__all__ = ["Found", "Retrieval", "Wanted", "best_first", "cosine"]

_DRAWS = 100
"""Different items that the generator draws, or as many as are asked for, if that is more."""

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
        if "generator" in sources and not self._bundle.scorer.players.fused:
            raise _refused(
                sorted(sources), "pool and candidates: this bundle's score holds no generator"
            )

    def best(self, wanted: Wanted) -> Found:
        """Return the k best allowed items of all wanted sources, fewer only where fewer are."""
        listed, drawn = self._listed(wanted), self._drawn(wanted)
        if "pool" in wanted.sources:
            positions, source = self._of_pool(wanted)
        else:
            positions, source = np.union1d(listed, drawn), "pool"
        positions, scores = self._ranked(wanted, positions)
        names = np.full(len(positions), source, dtype=object)
        names[np.isin(positions, drawn)] = "generator"
        names[np.isin(positions, listed)] = "candidates"
        return Found(positions, scores, names.tolist())

    def _listed(self, wanted: Wanted) -> Ints:
        return wanted.listed[wanted.allowed[wanted.listed]]

    def _drawn(self, wanted: Wanted) -> Ints:
        """Draw different allowed items by the generator's confidence (Gumbel top-k)."""
        allowed = np.flatnonzero(wanted.allowed)
        if "generator" not in wanted.sources:
            return allowed[:0]
        items = allowed + self._bundle.catalogue.pool(wanted.domain).start
        logits = self._bundle.scorer.confidence_logits(wanted.user, items)
        seed = zlib.crc32(wanted.history.tobytes())
        noise = np.random.default_rng([wanted.domain, seed]).gumbel(size=len(items))
        count = max(_DRAWS, wanted.k)
        if len(items) <= count:
            return allowed
        return allowed[np.argpartition(-(logits + noise), count)[:count]]

    def _of_pool(self, wanted: Wanted) -> tuple[Ints, str]:
        """Return positions among which the k best of the pool are, and how they were found."""
        index = self._bundle.indexes.get(self._bundle.catalogue.domains[wanted.domain])
        allowed = int(np.count_nonzero(wanted.allowed))
        if index is not None and allowed > _FEW * len(wanted.allowed):
            found = index.search(wanted.user, wanted.allowed, wanted.k)
            if len(found) == min(wanted.k, allowed):
                return np.sort(found), "index"
        return np.flatnonzero(wanted.allowed), "pool"

    def _ranked(self, wanted: Wanted, positions: Ints) -> tuple[Ints, Floats]:
        """Return the k best of some positions, which are sorted, and their scores."""
        pool, scorer = self._bundle.catalogue.pool(wanted.domain), self._bundle.scorer
        if len(positions) > _FEW * len(wanted.allowed):  # gathering them would cost more
            scores = scorer.item_vectors[pool] @ wanted.user + scorer.item_biases[pool]
            scores = scores[positions]
        else:
            items = positions + pool.start
            scores = scorer.item_vectors[items] @ wanted.user + scorer.item_biases[items]
        best = best_first(scores, wanted.k)
        return positions[best], scores[best]


def best_first(values: Floats, k: int) -> Ints:
    """Return the places of the k largest values, largest first.

    Of equal values the first comes first, so that an answer repeats.
    """
    places = np.arange(len(values))
    if len(values) > k:
        # All that tie with the k-th best stay in, so that the order among them decides.
        places = np.flatnonzero(values >= np.partition(values, len(values) - k)[len(values) - k])
    return places[np.lexsort((places, -values[places]))[:k]]


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
