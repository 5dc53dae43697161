"""An index is used where its measured recall allows it, and never finds what it may not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crossfeed.bundle.item_index import LEAST_RECALL, BuiltIndex, ItemIndex, build_index
from crossfeed.scorer import Floats

ITEMS, WIDTH = 4_000, 16


@pytest.fixture(scope="module")
def clustered() -> tuple[Floats, Floats, Floats]:
    """Return item vectors in 40 clusters, biases, and users near the clusters."""
    draws = np.random.default_rng(0)
    centres = draws.normal(size=(40, WIDTH))
    items = centres[draws.integers(40, size=ITEMS)] + 0.1 * draws.normal(size=(ITEMS, WIDTH))
    users = centres[draws.integers(40, size=50)] + 0.1 * draws.normal(size=(50, WIDTH))
    biases = 0.1 * draws.normal(size=ITEMS)
    return tuple(part.astype(np.float32) for part in (items, biases, users))  # type: ignore[return-value]


def opened(built: BuiltIndex, folder: Path) -> ItemIndex:
    assert built.data is not None
    file = folder / "index.faiss"
    file.write_bytes(built.data)
    return ItemIndex(file, probes=built.probes)


def best(items: Floats, biases: Floats, user: Floats, k: int) -> set[int]:
    return set(np.argsort(-(items @ user + biases))[:k].tolist())


def test_where_vectors_have_structure_the_index_is_used(
    clustered: tuple[Floats, Floats, Floats], tmp_path: Path
) -> None:
    items, biases, users = clustered
    built = build_index(items, biases, users)
    assert built.data is not None and built.recall >= LEAST_RECALL
    assert built.probes <= built.lists / 4
    index, everything = opened(built, tmp_path), np.ones(ITEMS, np.bool_)
    found = [set(index.search(user, everything, 100).tolist()) for user in users]
    hits = [
        len(one & best(items, biases, user, 100)) for one, user in zip(found, users, strict=True)
    ]
    assert sum(hits) / 5_000 == pytest.approx(built.recall)


def test_the_search_passes_over_what_is_not_allowed(
    clustered: tuple[Floats, Floats, Floats], tmp_path: Path
) -> None:
    items, biases, users = clustered
    index = opened(build_index(items, biases, users), tmp_path)
    for number, user in enumerate(users[:10]):
        allowed = np.random.default_rng(number).random(ITEMS) < 0.5
        allowed[list(best(items, biases, user, 30))] = False
        found = index.search(user, allowed, 20)
        assert len(found) == 20 and allowed[found].all()
        scores = np.where(allowed, items @ user + biases, -np.inf)
        assert len(set(found.tolist()) & set(np.argsort(-scores)[:20].tolist())) >= 19
    assert index.search(users[0], np.zeros(ITEMS, np.bool_), 5).tolist() == []


def test_where_vectors_have_none_it_is_not() -> None:
    draws = np.random.default_rng(0)
    items, users = (draws.normal(size=(n, 64)).astype(np.float32) for n in (ITEMS, 50))
    built = build_index(items, np.zeros(ITEMS, np.float32), users)
    assert built.data is None and built.recall < LEAST_RECALL


def test_the_same_items_give_the_same_index(clustered: tuple[Floats, Floats, Floats]) -> None:
    assert build_index(*clustered) == build_index(*clustered)
