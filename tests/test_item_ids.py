"""Ids are found by bisection in mapped memory; what is asked for often is kept, up to a bound."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from crossfeed.bundle import item_ids
from crossfeed.bundle.item_ids import ItemIds, sorted_places
from crossfeed.scorer import Catalogue

DRAWS = np.random.default_rng(0)
NUMBERS = DRAWS.permutation(np.arange(-150, 150) * 7)
TEXTS = ["é", "e", "", "ü" * 40, "e\x00", "漢字", *(f"item-{n}" for n in DRAWS.permutation(294))]
CATALOGUE = Catalogue(("a", "empty", "b"), np.array([0, 100, 100, 300]), np.array([100, 0, 200]))


@pytest.mark.parametrize("ids", [NUMBERS.tolist(), TEXTS], ids=["integers", "texts"])
def test_every_id_is_found_in_its_domain_alone(ids: list[str | int]) -> None:
    array = pa.array(ids)
    found = ItemIds(array, sorted_places(array, CATALOGUE), CATALOGUE)
    for _ in range(2):  # the second time from what is kept
        for item, item_id in enumerate(ids):
            own, other = ("a", "b") if item < 100 else ("b", "a")
            assert found.index(item_id, own) == item
            assert found.index(item_id, other) == found.index(item_id, "empty") == -1
    assert found.ids(np.array([299, 0, 5])) == [ids[299], ids[0], ids[5]]
    assert found.index(ids[0], "none") == -1


@pytest.mark.parametrize("wrong", ["no such", "", "e\x01", "zzz", "漢", 3, 10**30, "7"])
def test_what_is_no_id_is_not_found(wrong: str | int) -> None:
    numbers, texts = pa.array(NUMBERS), pa.array([f"i{n}" for n in range(300)])
    for array in (numbers, texts):
        found = ItemIds(array, sorted_places(array, CATALOGUE), CATALOGUE)
        assert found.index(wrong, "a") == -1


def test_ids_are_read_from_a_part_of_an_array() -> None:
    whole = pa.array([f"i{n}" for n in range(400)])
    array = whole.slice(100)
    found = ItemIds(array, sorted_places(array, CATALOGUE), CATALOGUE)
    assert found.index("i100", "a") == 0 and found.ids(np.array([299])) == ["i399"]


def test_what_is_kept_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_ids, "_KEPT", 10)
    array = pa.array(TEXTS)
    found = ItemIds(array, sorted_places(array, CATALOGUE), CATALOGUE)
    for item, item_id in enumerate(TEXTS[:100]):
        assert found.index(item_id, "a") == item
        assert len(found._kept["a"]) <= 10
    found.index("no such", "a")
    assert "no such" not in found._kept["a"]
