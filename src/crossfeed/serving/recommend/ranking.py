"""The order of the items that the sources found: by score, or source after source.

Dims: I items, N items of a pool, E width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from crossfeed.bundle import Bundle
from crossfeed.scorer import Floats, Ints
from crossfeed.serving.recommend.answers import Recommendation, Step
from crossfeed.serving.recommend.rules import keep_allowed
from crossfeed.serving.recommend.target import Allowed, Candidates, FindCandidates, Target

__all__ = ["Ranked", "best_first", "cosine", "fill_up", "rank_by_score"]

_BLOCK = 64
"""Values in a block; of each block only the largest is looked at first."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """The best items of one domain."""

    items: tuple[Recommendation, ...]
    """At most k, best first."""
    known: int
    """How many of them the model knows."""
    fallback: Step | None = None
    """The last step of the fallback that was needed, if any was."""


def rank_by_score(
    bundle: Bundle, target: Target, allowed: Allowed, found: Sequence[Candidates]
) -> Ranked:
    """Return the k items of all sources that the model scores best.

    An item of several sources is called by the first of them.
    """
    if any(one.positions is None for one in found):
        positions, scores = _best_of_pool(bundle, target, allowed)
    else:
        united = np.unique(np.concatenate([one.positions for one in found]))
        positions, scores = _best_of(bundle, target, united)
    names = [found[-1].source] * len(positions)
    if len(found) > 1:
        names = _names(positions, found)
    ids = bundle.ids.ids(positions + target.pool.start)
    items = tuple(
        Recommendation(item_id, target.name, score, source)
        for item_id, score, source in zip(ids, scores.tolist(), names, strict=True)
    )
    return Ranked(items, len(items))


def fill_up(
    bundle: Bundle,
    target: Target,
    allowed: Allowed,
    steps: Iterable[tuple[Step, FindCandidates]],
) -> Ranked:
    """Return k items; each source ranks its own and fills what those before it left open."""
    items: list[Recommendation] = []
    left, known, last = allowed, 0, None
    for step, find in steps:
        last = last or step
        found = keep_allowed(find(target, left), target, left)
        more = _own_order(bundle, target, found)[: target.k - len(items)]
        assert found.positions is not None
        positions = found.positions[: len(more)]
        positions = positions[positions >= 0]
        known += len(positions)
        items += more
        last = step if more else last
        if len(items) == target.k:
            break
        left = left.without(positions)
    return Ranked(tuple(items), known, last)


def _own_order(bundle: Bundle, target: Target, found: Candidates) -> list[Recommendation]:
    assert found.positions is not None and found.scores is not None
    ids = found.ids or bundle.ids.ids(found.positions + target.pool.start)
    return [
        Recommendation(item_id, target.name, score, found.source)
        for item_id, score in zip(ids, found.scores.tolist(), strict=True)
    ]


def _names(positions: Ints, found: Sequence[Candidates]) -> list[str]:
    names = np.full(len(positions), found[-1].source, dtype=object)
    for one in reversed(found[:-1]):
        if one.positions is not None:
            names[np.isin(positions, one.positions)] = one.source
    return names.tolist()


def _best_of_pool(bundle: Bundle, target: Target, allowed: Allowed) -> tuple[Ints, Floats]:
    """Return the k best allowed items of a pool and their scores."""
    scores = _scores(bundle, target, target.pool)
    np.copyto(scores, -np.inf, where=~allowed.mask)
    best = best_first(scores, min(target.k, int(np.count_nonzero(allowed.mask))))
    return best, scores[best]


def _best_of(bundle: Bundle, target: Target, positions: Ints) -> tuple[Ints, Floats]:
    """Return the k best of some positions, which are sorted, and their scores."""
    scores = _scores(bundle, target, positions + target.pool.start)
    best = best_first(scores, target.k)
    return positions[best], scores[best]


def _scores(bundle: Bundle, target: Target, items: Ints | slice) -> Floats:
    assert target.vector is not None
    scores: Floats = bundle.item_vectors[items] @ target.vector
    scores += bundle.item_biases[items]
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
