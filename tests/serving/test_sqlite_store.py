from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossfeed.errors import HistoryStoreError, OutputError
from crossfeed.serving.group_commit import GroupCommit
from crossfeed.serving.history import Event, Id, NewEvent
from crossfeed.serving.sqlite_store import SqliteHistoryStore as Store
from crossfeed.serving.sqlite_store import open_store


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "histories.sqlite"


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, file: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{file}" if request.param == "file" else "sqlite://")
    yield opened
    opened.close()


def click(name: str, user: Id = "ann", item: Id = "b1", time: int = 1_000) -> NewEvent:
    return NewEvent(event_id=name, user_id=user, item_id=item, domain="books", timestamp=time)


def items(store: Store, user: Id = "ann") -> list[Id]:
    return [event.item_id for event in store.read(user)]


def count(store: Store) -> int:
    return store._write(lambda c: int(c.execute("SELECT count(*) FROM events").fetchone()[0]))


def batch(*rows: tuple[Id, Id, str, int]) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True))
    return pa.RecordBatch.from_arrays(
        [pa.array(column) for column in columns],
        names=["user_id", "item_id", "domain", "timestamp"],
    )


def test_what_was_appended_is_read(store: Store) -> None:
    assert store.append([click("e1"), click("e2", user="bob")]) == (2, 0)
    assert store.read("ann") == [Event("b1", "books", 1_000)]
    assert store.read("nobody") == []


def test_late_events_take_their_place_and_ties_keep_the_order_of_arrival(store: Store) -> None:
    store.append([click("e1", item="b1", time=300), click("e2", item="b2", time=100)])
    store.append([click("e3", item="b3", time=200), click("e4", item="b4", time=100)])
    assert items(store) == ["b2", "b4", "b3", "b1"]


def test_an_event_id_counts_once_and_its_first_delivery_stays(store: Store) -> None:
    assert store.append([click("e1"), click("e1", item="b2"), click("e2", item="b3")]) == (2, 1)
    assert store.append([click("e1", user="bob")]) == (0, 1)
    assert items(store) == ["b1", "b3"]
    assert items(store, "bob") == []


def test_ids_keep_their_type(store: Store) -> None:
    texts = ["007", "7", "7.0", "1e3", "O'Neil; --", "ユーザー", "a\0b"]
    ids: list[Id] = [*texts, 7, -(2**63), 2**63 - 1]
    store.append([click(f"e{place}", user=id_, item=id_) for place, id_ in enumerate(ids)])
    for id_ in ids:
        (item,) = items(store, id_)
        assert item == id_
        assert type(item) is type(id_)


@pytest.mark.parametrize("bad", [2**63, 1.5, None, b"x"])
def test_what_cannot_be_an_id_is_refused(store: Store, bad: Id) -> None:
    with pytest.raises(HistoryStoreError, match="cannot write the history store"):
        store.append([click("e1"), click("e2", item=bad)])
    assert count(store) == 0


def test_forget_removes_one_user(store: Store) -> None:
    store.append([click("e1"), click("e2"), click("e3", user="bob")])
    assert store.forget("ann") == 2
    assert store.forget("ann") == 0
    assert store.read("ann") == []
    assert items(store, "bob") == ["b1"]


def test_forget_leaves_no_byte_of_the_user_in_the_files(file: Path) -> None:
    rng = random.Random(0)
    users = [f"user-{rng.getrandbits(64):016x}" for _ in range(50)]
    store = open_store(f"sqlite:///{file}")
    for part in range(10):  # many pages, split and filled again, and a reader in between
        names = [f"e{part}-{number}" for number in range(300)]
        store.append([click(name, rng.choice(users), time=rng.randrange(10**9)) for name in names])
        store.read(users[part])
    for user in users[:30]:
        assert traces(file, user) > 0
        assert store.forget(user) > 0
        assert traces(file, user) == 0
    assert traces(file, users[30]) > 0
    store.close()


def traces(file: Path, user: str) -> int:
    files = list(file.parent.glob(f"{file.name}*"))
    assert file in files
    return sum(path.read_bytes().count(user.encode()) for path in files)


def test_forget_says_when_a_reader_keeps_old_pages(file: Path) -> None:
    store = Store(file, busy_seconds=0.05)
    store.append([click("e1")])
    reader = sqlite3.connect(file)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM events").fetchone()
    with pytest.raises(HistoryStoreError, match="a reader keeps old pages"):
        store.forget("ann")
    reader.close()
    assert store.read("ann") == []
    assert store.forget("ann") == 0
    assert traces(file, "ann") == 0
    store.close()


def test_a_new_store_is_filled_once(store: Store) -> None:
    assert store.is_new()
    rows = [("ann", "b1", "books", 20), ("ann", "b2", "books", 10), ("bob", "b1", "books", 5)]
    assert store.fill([batch(*rows[:2]), batch(*rows[2:])], origin="v1") == 3
    assert items(store) == ["b2", "b1"]
    assert store.fill([batch(*rows)], origin="v2") == 0
    assert count(store) == 3


def test_who_was_forgotten_does_not_come_back(store: Store) -> None:
    store.append([click("e1")])
    store.forget("ann")
    assert not store.is_new()
    assert store.fill([batch(("ann", "b1", "books", 1))], origin="v1") == 0
    assert items(store) == []


def test_filling_that_fails_half_way_keeps_nothing(store: Store) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield batch(("ann", "b1", "books", 1))
        raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        store.fill(broken(), origin="v1")
    assert store.is_new()
    assert store.fill([batch(("ann", "b1", "books", 1))], origin="v1") == 1


def test_export_and_load_round_trip(store: Store, tmp_path: Path) -> None:
    store.fill([batch(("ann", "b1", "books", 20), ("ann", "b2", "books", 10))], origin="v1")
    store.append([click("e1", item="b3", time=15)])
    assert store.export(tmp_path / "out.parquet") == 3
    other = open_store("sqlite://")
    assert other.load(tmp_path / "out.parquet") == (3, 0)
    assert items(other) == items(store) == ["b2", "b3", "b1"]
    assert other.append([click("e1")]) == (0, 1)
    other.close()


def test_export_keeps_integers(store: Store, tmp_path: Path) -> None:
    store.fill([batch((7, 8, "books", 10))], origin="v1")
    store.export(tmp_path / "out.parquet")
    expected = {"user_id": 7, "item_id": 8, "domain": "books", "timestamp": 10, "event_id": None}
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == [expected]


def test_export_of_mixed_ids_is_refused(store: Store, tmp_path: Path) -> None:
    store.append([click("e1", user=7), click("e2", user="7")])
    with pytest.raises(HistoryStoreError, match="mixes ids of strings and integers"):
        store.export(tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_export_reads_page_by_page(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossfeed.serving.sqlite_store._ROWS_AT_ONCE", 2)
    store.append([click(f"e{number}") for number in range(5)])
    assert store.export(tmp_path / "out.parquet") == 5
    names = pq.read_table(tmp_path / "out.parquet")["event_id"].to_pylist()
    assert names == [f"e{number}" for number in range(5)]


def test_export_does_not_replace_unasked(store: Store, tmp_path: Path) -> None:
    (tmp_path / "out.parquet").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        store.export(tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").read_text() == "mine"
    assert store.export(tmp_path / "out.parquet", overwrite=True) == 0
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0


def test_load_takes_times_of_any_arrow_unit(store: Store, tmp_path: Path) -> None:
    rows = batch(("ann", "b1", "books", 1_500_000_000_000))
    typed = rows.set_column(3, "timestamp", rows["timestamp"].cast(pa.timestamp("ms")))
    pq.write_table(pa.Table.from_batches([typed]), tmp_path / "in.parquet")
    store.load(tmp_path / "in.parquet")
    assert store.read("ann")[0].timestamp == 1_500_000_000_000


def test_load_stores_nothing_twice(store: Store, tmp_path: Path) -> None:
    unnamed = pa.Table.from_batches([batch(("ann", "b1", "books", 1))])
    pq.write_table(unnamed, tmp_path / "unnamed.parquet")
    named = unnamed.append_column("event_id", pa.array(["e1"]))
    pq.write_table(named, tmp_path / "named.parquet")
    assert store.load(tmp_path / "unnamed.parquet") == (1, 0)
    with pytest.raises(HistoryStoreError, match="without event_id cannot be told from them"):
        store.load(tmp_path / "unnamed.parquet")
    assert store.load(tmp_path / "named.parquet") == (1, 0)
    assert store.load(tmp_path / "named.parquet") == (0, 1)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"user_id": ["ann"], "item_id": ["b1"]}), "no column domain, timestamp"),
        (
            pa.table({"user_id": [1.5], "item_id": ["b1"], "domain": ["d"], "timestamp": [1]}),
            "ids must be strings or integers",
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
        store.load(tmp_path / "in.parquet")
    assert store.is_new()


def test_load_refuses_what_is_no_parquet(store: Store, tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_text("user_id,item_id")
    with pytest.raises(HistoryStoreError, match=r"cannot load .*in\.parquet"):
        store.load(tmp_path / "in.parquet")
    with pytest.raises(HistoryStoreError, match=r"cannot load .*none\.parquet"):
        store.load(tmp_path / "none.parquet")


def test_concurrent_writers_and_readers(file: Path) -> None:
    store = open_store(f"sqlite:///{file}")

    def write(writer: int) -> int:
        accepted = 0
        for number in range(20):
            event = click(f"{writer % 4}-{number}", user=f"u{writer}", time=number)
            accepted += store.append([event])[0]
            store.read(f"u{writer}")
        return accepted

    with ThreadPoolExecutor(16) as pool:
        accepted = sum(pool.map(write, range(16)))
    assert accepted == count(store) == 4 * 20
    store.close()


@pytest.fixture
def connection() -> sqlite3.Connection:
    opened = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    opened.execute("CREATE TABLE numbers (number UNIQUE)")
    return opened


def as_one_group(writer: GroupCommit, calls: list[Callable[[], object]]) -> list[Future[object]]:
    """Make the calls while the writer is held, so that they wait together."""
    started, go = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> None:
        started.set()
        assert go.wait(10)

    with ThreadPoolExecutor(len(calls) + 1) as pool:
        pool.submit(writer.run, hold)
        assert started.wait(10)
        futures = [pool.submit(call) for call in calls]
        while writer._tasks.qsize() < len(calls):
            time.sleep(0.001)
        go.set()
    return futures


def test_writers_that_wait_share_a_transaction(connection: sqlite3.Connection) -> None:
    commits: list[str] = []
    connection.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    writer = GroupCommit(connection)
    futures = as_one_group(writer, [lambda n=n: writer.run(lambda _: n) for n in range(8)])
    assert [future.result() for future in futures] == list(range(8))
    writer.close()
    assert len(commits) == 2  # that of the task which held the writer, and theirs


def test_one_bad_write_leaves_those_beside_it_alone(connection: sqlite3.Connection) -> None:
    writer = GroupCommit(connection)

    def insert(*numbers: int) -> object:
        rows = [(number,) for number in numbers]
        return writer.run(lambda c: c.executemany("INSERT INTO numbers VALUES (?)", rows).rowcount)

    good, bad, other = as_one_group(
        writer, [lambda: insert(1, 2), lambda: insert(3, 3), lambda: insert(4, 5)]
    )
    assert (good.result(), other.result()) == (2, 2)
    with pytest.raises(sqlite3.IntegrityError):
        bad.result()
    kept = writer.run(lambda c: c.execute("SELECT number FROM numbers ORDER BY number").fetchall())
    assert kept == [(1,), (2,), (4,), (5,)]
    writer.close()


def test_what_follows_a_transaction_is_shared(connection: sqlite3.Connection) -> None:
    writer = GroupCommit(connection)
    inside: list[bool] = []

    def follow(connection: sqlite3.Connection) -> None:
        inside.append(connection.in_transaction)

    calls = [lambda n=n: writer.run(lambda _: n, then=follow) for n in range(4)]
    assert [future.result() for future in as_one_group(writer, calls)] == [0, 1, 2, 3]
    assert inside == [False]
    writer.close()


def test_what_follows_fails_for_those_alone_who_asked_for_it(
    connection: sqlite3.Connection,
) -> None:
    writer = GroupCommit(connection)

    def fail(_: sqlite3.Connection) -> None:
        raise ValueError("planted")

    failing, other = as_one_group(
        writer, [lambda: writer.run(lambda _: 1, then=fail), lambda: writer.run(lambda _: 2)]
    )
    assert other.result() == 2
    with pytest.raises(ValueError, match="planted"):
        failing.result()
    writer.close()


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(HistoryStoreError, match="is closed"):
        store.append([click("e1")])
    with pytest.raises(HistoryStoreError, match="is closed"):
        store.read("ann")
    with pytest.raises(HistoryStoreError, match="is closed"):
        store.ping()


def test_it_is_there_after_closing_and_opening(file: Path) -> None:
    first = open_store(f"sqlite:///{file}")
    first.append([click("e1")])
    first.close()
    again = open_store(f"sqlite:///{file}")
    assert items(again) == ["b1"]
    assert again.append([click("e1")]) == (0, 1)
    again.close()


def test_only_the_owner_can_read_the_file(file: Path) -> None:
    open_store(f"sqlite:///{file}").close()
    assert file.stat().st_mode & 0o777 == 0o600


_APPEND_FOR_EVER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from crossfeed.serving.history import NewEvent
from crossfeed.serving.sqlite_store import open_store

store = open_store("sqlite:///" + sys.argv[1])

def write(writer):
    for number in range(10**9):
        name = f"{writer}-{number}"
        store.append([NewEvent(name, f"u{writer}", "b1", "books", number)])
        sys.stdout.write(name + "\\n")
        sys.stdout.flush()

with ThreadPoolExecutor(8) as pool:
    list(pool.map(write, range(8)))
"""


def test_kill_loses_nothing_that_was_acknowledged(file: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _APPEND_FOR_EVER, str(file)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    acknowledged = [child.stdout.readline() for _ in range(300)]
    os.kill(child.pid, signal.SIGKILL)
    acknowledged += child.stdout.read().splitlines(keepends=True)
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    whole = {line.strip() for line in acknowledged if line.endswith("\n")}
    store = open_store(f"sqlite:///{file}")
    kept = {
        f"{writer}-{event.timestamp}" for writer in range(8) for event in store.read(f"u{writer}")
    }
    assert len(whole) >= 300
    assert whole <= kept
    assert store.append([click("after")]) == (1, 0)
    store.close()


def test_a_full_disk_is_said_and_loses_nothing(file: Path) -> None:
    store = Store(file)
    store.append([click("e1")])
    store._writer.run(lambda c: c.execute("PRAGMA max_page_count = 12").fetchone())
    with pytest.raises(HistoryStoreError, match=r"disk is full\nhint: free some space"):
        for number in range(100):
            store.append([click(f"f{number}", item="x" * 1000)])
    store._writer.run(lambda c: c.execute("PRAGMA max_page_count = 100000").fetchone())
    assert store.append([click("e1"), click("e2")]) == (1, 1)
    store.close()


def test_a_locked_file_is_said(file: Path) -> None:
    store = Store(file, busy_seconds=0.05)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(HistoryStoreError, match=r"is locked\nhint: another process holds it"):
        store.append([click("e1")])
    with pytest.raises(HistoryStoreError, match="is locked"):
        store.ping()
    other.close()
    store.ping()
    assert store.append([click("e1")]) == (1, 0)
    store.close()


def test_a_file_that_is_no_database_is_refused(file: Path) -> None:
    file.write_bytes(b"user_id,item_id\n" * 100)
    with pytest.raises(HistoryStoreError, match=r"not a database\nhint: choose another file"):
        open_store(f"sqlite:///{file}")
    assert file.read_bytes().startswith(b"user_id")


def test_a_database_of_something_else_is_refused(file: Path) -> None:
    other = sqlite3.connect(file)
    other.execute("CREATE TABLE events (name TEXT)")
    other.close()
    with pytest.raises(HistoryStoreError, match="no history store of crossfeed"):
        open_store(f"sqlite:///{file}")


def test_another_format_version_is_refused(file: Path) -> None:
    open_store(f"sqlite:///{file}").close()
    later = sqlite3.connect(file)
    later.execute("PRAGMA user_version = 2")
    later.close()
    with pytest.raises(HistoryStoreError, match="has format version 2; this crossfeed reads 1"):
        open_store(f"sqlite:///{file}")


def test_a_damaged_file_is_said(file: Path) -> None:
    store = open_store(f"sqlite:///{file}")
    store.append([click(f"e{number}", item="x" * 100) for number in range(2_000)])
    store.close()
    content = bytearray(file.read_bytes())
    content[4096 * 2 :] = b"\xff" * (len(content) - 4096 * 2)
    file.write_bytes(content)
    damaged = open_store(f"sqlite:///{file}")
    with pytest.raises(HistoryStoreError, match=r"malformed\nhint: put a backup in its place"):
        damaged.read("ann")
    damaged.close()


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(HistoryStoreError, match=r"No such file.*\nhint: its folder must exist"):
        open_store(f"sqlite:///{tmp_path}/nowhere/h.sqlite")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://me:secret@host:6379/0", "a history store in Redis is no kind .* this version"),
        ("postgresql://me:secret@host/db", "'postgresql' is no kind of history store"),
        ("histories.sqlite", r"\nhint: name a file, sqlite:///histories\.sqlite, or memory"),
        ("sqlite:///", "hint: name a file"),
        ("sqlite://host/file", "hint: name a file"),
        ("", "hint: name a file"),
    ],
)
def test_other_stores_are_refused(url: str, message: str) -> None:
    with pytest.raises(HistoryStoreError, match=message) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


def test_a_path_is_relative_to_the_present_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    open_store("sqlite:///here.sqlite").close()
    assert (tmp_path / "here.sqlite").is_file()
