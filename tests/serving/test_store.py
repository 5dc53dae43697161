"""The history store: durable, idempotent, in the order of time, and able to forget."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossfeed.errors import HistoryStoreError, OutputError, RequestError
from crossfeed.serving.history import Event, NewEvent, restore_id
from crossfeed.serving.sqlite_store import SqliteHistoryStore, open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteHistoryStore]:
    store = SqliteHistoryStore(tmp_path / "store.sqlite")
    yield store
    store.close()


def event(name: str, *, user: str | int = "ann", item: str | int = "i", at: int = 0) -> NewEvent:
    return NewEvent(name, user, item, "books", at)


def test_events_come_back_in_the_order_of_time_even_when_late(store: SqliteHistoryStore) -> None:
    store.append([event("1", item="late", at=300), event("2", item="early", at=100)])
    store.append([event("3", item="between", at=200), event("4", item="tie", at=200)])
    assert [one.item_id for one in store.read("ann")] == ["early", "between", "tie", "late"]
    assert store.read("ann")[0] == Event("early", "books", 100)
    assert list(store.read("bob")) == []


def test_an_event_id_is_stored_once(store: SqliteHistoryStore) -> None:
    assert store.append([event("1"), event("2"), event("1", item="other")]) == (2, 1)
    assert store.append([event("2"), event("3")]) == (1, 1)
    assert len(store.read("ann")) == 3


def test_ids_keep_their_type(store: SqliteHistoryStore) -> None:
    store.append([event("1", user=7, item=7), event("2", user="7", item="007")])
    assert [one.item_id for one in store.read(7)] == [7]
    assert [one.item_id for one in store.read("7")] == ["007"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(st.one_of(st.text(min_size=1).filter(str.isprintable), st.integers(-(2**63), 2**63 - 1)))
def test_any_id_makes_the_round_trip(store: SqliteHistoryStore, name: str | int) -> None:
    store.forget(name)
    store.append([event(os.urandom(8).hex(), user=name, item=name)])
    assert [one.item_id for one in store.read(name)] == [name]


def test_what_was_stored_is_there_after_opening_again(tmp_path: Path) -> None:
    first = open_store(f"sqlite:///{tmp_path}/deep/store.sqlite")
    first.append([event("1")])
    first.close()
    again = open_store(f"sqlite:///{tmp_path}/deep/store.sqlite")
    assert len(again.read("ann")) == 1
    again.close()
    with pytest.raises(HistoryStoreError, match="is closed"):
        again.append([event("2")])


WRITER = """
import sys, threading
from crossfeed.serving.history import NewEvent
from crossfeed.serving.sqlite_store import SqliteHistoryStore
store = SqliteHistoryStore(sys.argv[1])
out = threading.Lock()
def write(name):
    for number in range(100_000):
        key = f"{name}-{number}"
        store.append([NewEvent(key, "ann", key, "books", number)])
        with out:
            print(key, flush=True)
for name in "abcd":
    threading.Thread(target=write, args=(name,)).start()
"""


def test_no_acknowledged_event_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(400)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
    store = SqliteHistoryStore(path)
    stored = {one.item_id for one in store.read("ann")}
    store.close()
    assert len(acknowledged) >= 400
    assert set(acknowledged) <= stored


def test_many_writers_at_once_lose_nothing(store: SqliteHistoryStore) -> None:
    def write(name: int) -> None:
        for number in range(20):
            store.append([event(f"{name}-{number}", item=f"{name}-{number}")])
            assert f"{name}-{number}" in {one.item_id for one in store.read("ann")}

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(16)))
    assert len(store.read("ann")) == 320


def test_two_stores_on_one_file_see_each_other(tmp_path: Path) -> None:
    one, other = (SqliteHistoryStore(tmp_path / "store.sqlite") for _ in range(2))
    one.append([event("1")])
    assert len(other.read("ann")) == 1
    other.append([event("2")])
    assert len(one.read("ann")) == 2
    one.close()
    other.close()


def test_forgetting_leaves_no_trace_in_the_files(tmp_path: Path) -> None:
    store = SqliteHistoryStore(tmp_path / "store.sqlite")
    secret = "a-user-name-to-be-forgotten"
    store.append([event(str(n), user=secret, item=f"item-{n}") for n in range(500)])
    store.append([event("keep", user="bob")])
    assert store.forget(secret) == 500
    assert store.forget(secret) == 0
    assert list(store.read(secret)) == []
    assert len(store.read("bob")) == 1
    traces = [file.name for file in tmp_path.iterdir() if secret.encode() in file.read_bytes()]
    assert traces == []
    store.close()


def batches(*users: str) -> list[pa.RecordBatch]:
    columns = {
        "user_id": list(users),
        "item_id": [f"item-{place}" for place in range(len(users))],
        "domain": ["books"] * len(users),
        "timestamp": list(range(len(users))),
    }
    return pa.table(columns).to_batches()


def test_a_store_is_filled_once_so_that_the_forgotten_stay_forgotten(tmp_path: Path) -> None:
    store = SqliteHistoryStore(tmp_path / "store.sqlite")
    assert store.fill(batches("ann", "bob", "ann"), origin="bundle") == 3
    store.forget("ann")
    store.forget("bob")
    store.close()
    again = SqliteHistoryStore(tmp_path / "store.sqlite")
    assert again.fill(batches("ann"), origin="bundle") == 0
    assert list(again.read("ann")) == []
    again.close()


def test_a_fill_that_fails_leaves_nothing(store: SqliteHistoryStore) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield from batches("ann")
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="the disk went away"):
        store.fill(broken(), origin="bundle")
    assert list(store.read("ann")) == []
    assert store.fill(batches("ann"), origin="bundle") == 1


def test_a_failing_job_does_not_harm_those_beside_it(store: SqliteHistoryStore) -> None:
    def write(name: int) -> str:
        bad = NewEvent(f"bad-{name}", "ann", None, "books", 0)  # type: ignore[arg-type]
        try:
            store.append([bad if name % 2 else event(f"good-{name}")])
        except HistoryStoreError:
            return "refused"
        return "stored"

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(write, range(40)))
    assert outcomes == ["stored", "refused"] * 20
    assert len(store.read("ann")) == 20


def test_export_and_load_are_a_round_trip(store: SqliteHistoryStore, tmp_path: Path) -> None:
    store.append([event("1", user=2, item=20, at=5), event("2", user=1, item=10, at=9)])
    out = tmp_path / "events.parquet"
    assert store.export(out) == 2
    table = pq.read_table(out)
    assert table["user_id"].to_pylist() == [1, 2]
    assert table.schema.field("user_id").type == pa.int64()
    with pytest.raises(OutputError, match="exists already"):
        store.export(out)
    other = SqliteHistoryStore(tmp_path / "other.sqlite")
    assert other.load(out) == (2, 0)
    assert other.load(out) == (0, 2)
    assert list(other.read(1)) == [Event(10, "books", 9)]
    other.close()


def test_a_file_that_is_no_export_is_refused(store: SqliteHistoryStore, tmp_path: Path) -> None:
    text = tmp_path / "events.txt"
    text.write_text("user_id,item_id")
    with pytest.raises(HistoryStoreError, match=r"cannot load .*\nhint: it must be Parquet with"):
        store.load(text)
    pq.write_table(pa.table({"user_id": ["ann"]}), tmp_path / "few.parquet")
    with pytest.raises(HistoryStoreError, match="item_id"):
        store.load(tmp_path / "few.parquet")
    assert store.append([event("1")]) == (1, 0)


@pytest.mark.parametrize("url", ["redis://localhost", "sqlite:///", "histories.sqlite", ""])
def test_another_kind_of_store_is_refused(url: str) -> None:
    with pytest.raises(HistoryStoreError, match=r"no kind of .*\nhint: name a file: sqlite:///"):
        open_store(url)


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, and long enough to be looked at" * 50)
    with pytest.raises(HistoryStoreError, match=r"cannot open .*text': file is not a database"):
        SqliteHistoryStore(tmp_path / "text")
    connection = sqlite3.connect(tmp_path / "later.sqlite")
    connection.execute("CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT")
    connection.execute("INSERT INTO facts VALUES ('format_version', '9')")
    connection.commit()
    connection.close()
    with pytest.raises(HistoryStoreError, match="format version 9; this crossfeed reads 1"):
        SqliteHistoryStore(tmp_path / "later.sqlite")


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    """The database may not grow any more, which is what SQLite meets on a full disk."""
    store = SqliteHistoryStore(tmp_path / "store.sqlite")
    store.append([event("before")])

    def forbid_growth(connection: sqlite3.Connection) -> int:
        [pages] = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return 0

    store._write(forbid_growth)
    large = [event(f"e{n}", item="x" * 1000) for n in range(1000)]
    with pytest.raises(HistoryStoreError, match=r"database or disk is full\nhint: .*free space"):
        store.append(large)
    assert [one.item_id for one in store.read("ann")] == ["i"]

    def allow_growth(connection: sqlite3.Connection) -> int:
        connection.execute("PRAGMA max_page_count = 1000000")
        return 0

    store._write(allow_growth)
    assert store.append(large) == (1000, 0)
    store.close()


@pytest.mark.parametrize(
    ("value", "type_", "expected"),
    [
        ("7", pa.int64(), 7),
        (-7, pa.int64(), -7),
        ("007", pa.string(), "007"),
        (7, pa.string(), "7"),
    ],
)
def test_ids_are_restored_to_the_logs_type(
    value: object, type_: pa.DataType, expected: object
) -> None:
    assert restore_id(value, type_, field="user_id") == expected


@pytest.mark.parametrize("value", ["x", "007", "7.0", "", str(2**63), True, None, 1.5, [1]])
def test_an_id_that_is_no_integer_is_refused_where_ids_are_integers(value: object) -> None:
    with pytest.raises(RequestError, match="user_id must be an integer"):
        restore_id(value, pa.int64(), field="user_id")
