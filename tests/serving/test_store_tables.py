"""Whole histories go into a store and come out of it as tables."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stores import batch, click, count, items

from crossfeed.errors import HistoryStoreError, OutputError
from crossfeed.serving.histories.history import HistoryStore as Store
from crossfeed.serving.histories.url import open_store

T = 1_700_000_000_000
TEXT = pa.string()


def load(store: Store, file: Path, *, ids: pa.DataType = TEXT) -> tuple[int, int]:
    return store.bulk.load(file, user_ids=ids, item_ids=ids)


def test_a_new_store_is_filled_once(store: Store) -> None:
    assert store.bulk.is_new()
    rows = [("ann", "b1", "books", 20), ("ann", "b2", "books", 10), ("bob", "b1", "books", 5)]
    assert store.bulk.fill([batch(*rows[:2]), batch(*rows[2:])], origin="v1") == 3
    assert items(store) == ["b2", "b1"]
    assert store.bulk.fill([batch(*rows)], origin="v2") == 0
    assert count(store) == 3


def test_who_was_forgotten_does_not_come_back(store: Store) -> None:
    store.append([click("e1")])
    store.forget("ann")
    assert not store.bulk.is_new()
    assert store.bulk.fill([batch(("ann", "b1", "books", 1))], origin="v1") == 0
    assert items(store) == []


def test_filling_that_fails_half_way_keeps_nothing(store: Store) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield batch(("ann", "b1", "books", 1))
        raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        store.bulk.fill(broken(), origin="v1")
    assert store.bulk.is_new()
    assert store.bulk.fill([batch(("ann", "b1", "books", 1))], origin="v1") == 1


def test_export_and_load_round_trip(store: Store, tmp_path: Path) -> None:
    store.bulk.fill([batch(("ann", "b1", "books", T + 20), ("ann", "b2", "books", T))], origin="v1")
    store.append([click("e1", item="b3", time=T + 15)])
    assert store.bulk.export(tmp_path / "out.parquet") == 3
    other = open_store("sqlite://")
    assert load(other, tmp_path / "out.parquet") == (3, 0)
    assert items(other) == items(store) == ["b2", "b3", "b1"]
    assert other.append([click("e1")]) == (0, 1)
    other.close()


def test_export_keeps_integers(store: Store, tmp_path: Path) -> None:
    store.bulk.fill([batch((7, 8, "books", 10))], origin="v1")
    store.bulk.export(tmp_path / "out.parquet")
    expected = {"user_id": 7, "item_id": 8, "domain": "books", "timestamp": 10, "event_id": None}
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == [expected]


def test_export_of_mixed_ids_is_refused(store: Store, tmp_path: Path) -> None:
    store.append([click("e1", user=7), click("e2", user="7")])
    with pytest.raises(HistoryStoreError, match="mixes ids of strings and integers"):
        store.bulk.export(tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_export_reads_page_by_page(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossfeed.serving.histories.sqlite.bulk.ROWS_AT_ONCE", 2)
    monkeypatch.setattr("crossfeed.serving.histories.redis.bulk._KEYS_AT_ONCE", 2)
    store.append([click(f"e{number}", user=f"u{number % 5}") for number in range(15)])
    assert store.bulk.export(tmp_path / "out.parquet") == 15
    rows = pq.read_table(tmp_path / "out.parquet").select(["user_id", "event_id"]).to_pylist()
    for user in range(5):
        names = [row["event_id"] for row in rows if row["user_id"] == f"u{user}"]
        assert names == [f"e{user + 5 * turn}" for turn in range(3)]


def test_export_does_not_replace_unasked(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert store.bulk.export(out) == 0
    with pytest.raises(OutputError, match="exists already"):
        store.bulk.export(out)
    assert store.bulk.export(out, overwrite=True) == 0
    assert pq.read_table(out).num_rows == 0
    out.write_text("mine")
    with pytest.raises(OutputError, match="is not a file of events"):
        store.bulk.export(out, overwrite=True)
    assert out.read_text() == "mine"


def test_load_takes_times_of_any_arrow_unit(store: Store, tmp_path: Path) -> None:
    for place, unit in enumerate(("s", "ms", "us", "ns")):
        time = pa.array([T // 1000]).cast(pa.timestamp("s", "UTC")).cast(pa.timestamp(unit, "UTC"))
        rows = batch(("ann", f"b{place}", "books", 0)).set_column(3, "timestamp", time)
        pq.write_table(pa.Table.from_batches([rows]), tmp_path / "in.parquet")
        assert load(store, tmp_path / "in.parquet") == (1, 0)
    assert [event.timestamp for event in store.read_many(["ann"])[0]] == [T] * 4


def test_load_restores_ids_to_the_logs_type(store: Store, tmp_path: Path) -> None:
    numbers, texts = batch((7, 8, "books", T)), batch(("7", "8", "books", T))
    for type_, expected in ((TEXT, "8"), (pa.int64(), 8)):
        for rows, counts in ((numbers, (1, 0)), (texts, (0, 1))):
            pq.write_table(pa.Table.from_batches([rows]), tmp_path / "in.parquet")
            assert load(store, tmp_path / "in.parquet", ids=type_) == counts
        assert items(store, type(expected)(7)) == [expected]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            ("ann", "b1", "books", T // 1000),
            "timestamp must be between 1990 .*; it is 1700000000\n",
        ),
        (("ann", "b1", "books", T * 1000), "timestamp must be between 1990 and a day from now"),
        (("ann", "b1", "books", -5), "hint: times must be milliseconds since 1970"),
        (("ann", "b1", "books", None), "timestamp must be .*; it is None"),
        ((None, "b1", "books", T), "user_id must be a string"),
        (
            ("ann", "", "books", T),
            "item_id must be .*; it is ''\nhint: ids must be those of the log",
        ),
        (("ann", "b1", "", T), "domain must be a string of 1 to 1024 characters; it is ''"),
        (("ann", "b1", None, T), "domain must be .*; it is None"),
        (("ann", "b1", "b" * 1025, T), "domain must be a string of 1 to 1024 characters"),
    ],
)
def test_load_refuses_what_the_service_would_refuse(
    store: Store, tmp_path: Path, row: tuple[str, str, str, int], message: str
) -> None:
    rows = batch(("ann", "b1", "books", T), row)
    pq.write_table(pa.Table.from_batches([rows]), tmp_path / "in.parquet")
    with pytest.raises(HistoryStoreError, match=rf"row 2 of '.*in\.parquet': [\s\S]*{message}"):
        load(store, tmp_path / "in.parquet")
    assert store.bulk.is_new()


def test_load_takes_domains_that_no_model_knows_yet(store: Store, tmp_path: Path) -> None:
    """As the service does."""
    rows = pa.Table.from_batches([batch(("ann", "t1", "toys", T))])
    pq.write_table(rows, tmp_path / "in.parquet")
    assert load(store, tmp_path / "in.parquet") == (1, 0)
    assert store.read_many(["ann"])[0][0].domain == "toys"


@pytest.mark.parametrize("type_", [pa.date32(), pa.date64()])
def test_load_takes_dates_as_their_first_moment(
    store: Store, tmp_path: Path, type_: pa.DataType
) -> None:
    rows = pa.Table.from_batches([batch(("ann", "b1", "books", 0))])
    day = pa.array([datetime.date(2023, 11, 14)], type_)
    pq.write_table(rows.set_column(3, "timestamp", day), tmp_path / "in.parquet")
    assert load(store, tmp_path / "in.parquet") == (1, 0)
    assert store.read_many(["ann"])[0][0].timestamp == 1_699_920_000_000  # 2023-11-14T00:00Z


@pytest.mark.parametrize("event_id", ["", "e" * 1025])
def test_load_refuses_event_ids_that_the_service_would_refuse(
    store: Store, tmp_path: Path, event_id: str
) -> None:
    rows = pa.Table.from_batches([batch(("ann", "b1", "books", T))])
    named = rows.append_column("event_id", pa.array([event_id]))
    pq.write_table(named, tmp_path / "in.parquet")
    with pytest.raises(HistoryStoreError, match=r"row 1 of .*: event_id must be a string of 1 to"):
        load(store, tmp_path / "in.parquet")
    assert store.bulk.is_new()


def test_load_refuses_text_where_ids_are_integers(store: Store, tmp_path: Path) -> None:
    pq.write_table(
        pa.Table.from_batches([batch(("007", "8", "books", T))]), tmp_path / "in.parquet"
    )
    with pytest.raises(HistoryStoreError, match=r"row 1 of .*: user_id must be an integer"):
        load(store, tmp_path / "in.parquet", ids=pa.int64())


def test_load_stores_nothing_twice(store: Store, tmp_path: Path) -> None:
    rows = batch(
        ("ann", "b1", "books", T), ("ann", "b1", "books", T + 1), ("bob", "b1", "books", T)
    )
    unnamed, named = tmp_path / "unnamed.parquet", tmp_path / "named.parquet"
    table = pa.Table.from_batches([rows])
    pq.write_table(table, unnamed)
    pq.write_table(table.append_column("event_id", pa.array(["e1", "e2", "e3"])), named)
    assert load(store, unnamed) == (3, 0)
    assert load(store, unnamed) == (0, 3)
    assert load(store, named) == (0, 3)
    assert store.append([click("e9", time=9)]) == (1, 0)
    other = open_store("sqlite://")
    assert load(other, named) == (3, 0)
    assert other.append([click("e1", time=9)]) == (0, 1)
    other.close()


def test_what_was_exported_is_loaded_without_doubles(store: Store, tmp_path: Path) -> None:
    store.bulk.fill([batch(("ann", "b1", "books", T))], origin="v1")
    store.append([click("e1", time=T + 1)])
    store.bulk.export(tmp_path / "out.parquet")
    assert load(store, tmp_path / "out.parquet") == (0, 2)
    other = open_store("sqlite://")
    other.bulk.fill([batch(("ann", "b1", "books", T))], origin="v1")
    assert load(other, tmp_path / "out.parquet") == (1, 1)
    assert other.read_many(["ann"])[0] == store.read_many(["ann"])[0]
    other.close()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"user_id": ["ann"], "item_id": ["b1"]}), "no column domain, timestamp"),
        (
            pa.table({"user_id": [1.5], "item_id": ["b1"], "domain": ["d"], "timestamp": [1]}),
            r"row 1 of .*: user_id must be a string .*; it is 1\.5",
        ),
        (
            pa.table({"user_id": ["ann"], "item_id": ["b1"], "domain": ["d"], "timestamp": ["x"]}),
            "it must be Parquet with user_id",
        ),
    ],
    ids=["missing", "float", "text-time"],
)
def test_load_refuses_what_is_no_history(
    store: Store, tmp_path: Path, table: pa.Table, message: str
) -> None:
    pq.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(HistoryStoreError, match=message):
        load(store, tmp_path / "in.parquet")
    assert store.bulk.is_new()


def test_load_refuses_what_is_no_parquet(store: Store, tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_text("user_id,item_id")
    with pytest.raises(HistoryStoreError, match=r"cannot load .*in\.parquet"):
        load(store, tmp_path / "in.parquet")
    with pytest.raises(HistoryStoreError, match=r"cannot load .*none\.parquet"):
        load(store, tmp_path / "none.parquet")
