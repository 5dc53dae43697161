"""Where items come from for a user whom the model knows: the pool or its index, a list, draws.

Dims: I items, N items of a pool, E width.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np

from crossfeed.bundle import Bundle
from crossfeed.errors import RequestError
from crossfeed.serving.recommend.query import SOURCES, Query
from crossfeed.serving.recommend.target import Allowed, Candidates, FindCandidates, Target

__all__ = ["ModelSources"]

_DRAWS = 100
"""Different items that the generator draws, or as many as are asked for, if that is more."""

_FEW = 0.1
"""Share of a pool up to which scoring what is allowed is less work than searching the rest."""


class ModelSources:
    """The sources whose items the model of a bundle scores."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def check(self, query: Query) -> None:
        """Check where a query wants its items from.

        Raises:
            RequestError: a source is unknown; the candidates are named without a list, or a list
                comes without them; or the bundle's score has no generator.
        """
        names = query.drawn_from
        if not names or not names.issubset(SOURCES):
            raise _refused(query, f"some of {', '.join(SOURCES)}")
        if (query.candidates is not None) != ("candidates" in names):
            raise _refused(query, "candidates if and only if the request lists them")
        if "generator" in names and not self._bundle.fused:
            raise _refused(query, "pool and candidates: this bundle's score holds no generator")

    def of(self, query: Query) -> Iterator[FindCandidates]:
        """Yield the sources of a query; an item of several is called by the first of them."""
        names = query.drawn_from
        if "candidates" in names:
            yield self.candidates
        if "generator" in names:
            yield self.generator
        if "pool" in names:
            yield self.pool

    def candidates(self, target: Target, allowed: Allowed) -> Candidates:
        """Find what the query lists."""
        listed = target.lists.candidates
        assert listed is not None
        return Candidates("candidates", np.flatnonzero(allowed.mask & listed[target.pool]))

    def generator(self, target: Target, allowed: Allowed) -> Candidates:
        """Draw different allowed items by the generator's confidence (Gumbel top-k).

        The same history is shown the same draws.
        """
        places = np.flatnonzero(allowed.mask)
        count = max(_DRAWS, target.k)
        if len(places) <= count:
            return Candidates("generator", places)
        assert target.vector is not None
        logits = self._bundle.confidence_logits(target.vector, places + target.pool.start)
        seed = zlib.crc32(target.user.known.tobytes())
        noise = np.random.default_rng([target.domain, seed]).gumbel(size=len(places))
        return Candidates("generator", places[np.argpartition(-(logits + noise), count)[:count]])

    def pool(self, target: Target, allowed: Allowed) -> Candidates:
        """Find positions among which the k best of the pool are: by its index if it has one."""
        left = int(np.count_nonzero(allowed.mask))
        if left <= _FEW * len(allowed.mask):
            return Candidates("pool", np.flatnonzero(allowed.mask))
        index = self._bundle.indexes.get(target.name)
        if index is not None:
            assert target.vector is not None
            found = index.search(target.vector, allowed.mask, target.k)
            if len(found) == min(target.k, left):
                return Candidates("index", np.sort(found))
        return Candidates("pool", None)


def _refused(query: Query, allowed: str) -> RequestError:
    names = sorted(query.drawn_from)
    return RequestError(
        f"sources must be {allowed}; they are {names!r}",
        field="sources",
        value=names,
        allowed=allowed,
    )
