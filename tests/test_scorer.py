from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfeed.errors import UnknownDomainError
from crossfeed.scorer import Catalogue, Histories

rows_of_items = st.lists(st.lists(st.integers(0, 50), max_size=6), max_size=8)


@st.composite
def catalogues(draw: st.DrawFn) -> Catalogue:
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    trained = [draw(st.integers(0, size)) for size in sizes]
    return Catalogue(
        domains=tuple(f"domain {number}" for number in range(len(sizes))),
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        trained=np.array(trained, dtype=np.int64),
    )


@given(catalogue=catalogues())
def test_every_item_has_one_domain_whose_range_holds_it(catalogue: Catalogue) -> None:
    items = np.arange(catalogue.items)
    domains = catalogue.domain_of(items)
    assert (catalogue.offsets[domains] <= items).all()
    assert (items < catalogue.offsets[domains + 1]).all()


@given(catalogue=catalogues())
def test_pools_follow_one_another_and_begin_with_the_trained_items(catalogue: Catalogue) -> None:
    items, rows = np.arange(catalogue.items), catalogue.rows_of(np.arange(catalogue.items))
    together = []
    for domain in range(len(catalogue.domains)):
        pool = items[catalogue.pool(domain)]
        together += pool.tolist()
        assert (catalogue.domain_of(pool) == domain).all()
        own, trained = catalogue.trained_rows(domain), int(catalogue.trained[domain])
        assert rows[pool[:trained]].tolist() == list(range(own.start, own.stop))
        assert (rows[pool[trained:]] == -1).all()
    assert together == items.tolist()
    assert catalogue.rows == catalogue.trained.sum()
    np.testing.assert_array_equal(catalogue.trained_items, np.flatnonzero(rows >= 0))
    values = np.arange(1.0, catalogue.rows + 1, dtype=np.float32)
    spread = catalogue.of_all_items(values)
    np.testing.assert_array_equal(spread, np.where(rows >= 0, rows + 1, 0))


@given(catalogue=catalogues())
def test_names_and_indices_of_domains_agree(catalogue: Catalogue) -> None:
    indices = [catalogue.domain_index(name) for name in catalogue.domains]
    assert indices == list(range(len(catalogue.domains)))


def test_an_unknown_domain_lists_the_domains() -> None:
    catalogue = Catalogue(("books", "films"), np.array([0, 2, 3]), np.array([2, 1]))
    with pytest.raises(UnknownDomainError, match="'boks' is unknown; it is one of: books, films"):
        catalogue.domain_index("boks")


@given(rows=rows_of_items)
def test_histories_give_back_their_rows(rows: list[list[int]]) -> None:
    histories = Histories.of(rows)
    assert len(histories) == len(rows)
    assert [histories.row(row).tolist() for row in range(len(rows))] == rows
    assert histories.items.dtype == histories.offsets.dtype == np.int64


@given(rows=rows_of_items)
def test_each_history_item_knows_its_row(rows: list[list[int]]) -> None:
    expected = [row for row, items in enumerate(rows) for _ in items]
    assert Histories.of(rows).rows().tolist() == expected


def test_no_row_and_an_empty_row_differ() -> None:
    assert len(Histories.of([])) == 0
    assert len(Histories.of([[]])) == 1
    assert Histories.of([[]]).row(0).tolist() == []


def test_every_item_lies_in_the_domain_whose_range_holds_it() -> None:
    """Domains without items, and more of them than one byte can number."""
    for sizes in ([3, 0, 2], [1] * 200, [0, 70_000]):
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        names = tuple(str(number) for number in range(len(sizes)))
        catalogue = Catalogue(names, offsets=offsets, trained=np.array(sizes))
        items = np.arange(offsets[-1])
        expected = np.searchsorted(offsets, items, side="right") - 1
        found = catalogue.domain_of(items)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, expected)
