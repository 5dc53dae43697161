"""The embedded history store: one file, its accidents and its rights."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from stores import click

from crossfeed.data.logs.places.databases import database_table
from crossfeed.errors import HistoryStoreError
from crossfeed.serving.histories.sqlite.store import SqliteHistoryStore as Store
from crossfeed.serving.histories.url import open_store


def test_forget_leaves_no_byte_of_the_user_in_the_files(file: Path) -> None:
    rng = random.Random(0)
    users = [f"user-{rng.getrandbits(64):016x}" for _ in range(50)]
    store = open_store(f"sqlite:///{file}")
    for part in range(10):  # many pages, split and filled again, and a reader in between
        names = [f"e{part}-{number}" for number in range(300)]
        store.append([click(name, rng.choice(users), time=rng.randrange(10**9)) for name in names])
        store.read_many([users[part]])[0]
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


def test_a_service_that_was_asked_how_it_is_keeps_no_old_page(file: Path) -> None:
    served, other = Store(file), Store(file, busy_seconds=0.05)
    served.append([click("e1")])
    served.ping()
    assert other.forget("ann") == 1
    served.close()
    other.close()


def test_forget_says_when_a_reader_keeps_old_pages(file: Path) -> None:
    store = Store(file, busy_seconds=0.05)
    store.append([click("e1")])
    reader = sqlite3.connect(file)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM events").fetchone()
    with pytest.raises(HistoryStoreError, match="a reader keeps old pages"):
        store.forget("ann")
    reader.close()
    assert store.read_many(["ann"])[0] == []
    assert store.forget("ann") == 0
    assert traces(file, "ann") == 0
    store.close()


def test_only_the_owner_can_read_the_file(file: Path) -> None:
    open_store(f"sqlite:///{file}").close()
    assert file.stat().st_mode & 0o777 == 0o600


_APPEND_FOR_EVER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from crossfeed.serving.histories.history import NewEvent
from crossfeed.serving.histories.url import open_store

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
        f"{writer}-{event.timestamp}"
        for writer in range(8)
        for event in store.read_many([f"u{writer}"])[0]
    }
    assert len(whole) >= 300
    assert whole <= kept
    assert store.append([click("after")]) == (1, 0)
    store.close()


def test_a_full_disk_is_said_and_loses_nothing(file: Path) -> None:
    store = Store(file)
    store.append([click("e1")])
    store.connections.write(lambda c: c.execute("PRAGMA max_page_count = 12").fetchone())
    with pytest.raises(HistoryStoreError, match=r"disk is full\nhint: free some space"):
        for number in range(100):
            store.append([click(f"f{number}", item="x" * 1000)])
    store.connections.write(lambda c: c.execute("PRAGMA max_page_count = 100000").fetchone())
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
    later.execute("PRAGMA user_version = 4")
    later.close()
    with pytest.raises(
        HistoryStoreError,
        match=r"version 4; this crossfeed reads 3 and older ones\nhint: export it with",
    ):
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
        damaged.read_many(["ann"])[0]
    damaged.close()


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    open_store(f"sqlite:///{tmp_path}/new/folder/store.sqlite").close()
    assert (tmp_path / "new/folder/store.sqlite").is_file()


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(
        HistoryStoreError, match=r"cannot open .*directory\nhint: it must be a file"
    ):
        open_store(f"sqlite:///{tmp_path}")
    (tmp_path / "file").touch()
    with pytest.raises(HistoryStoreError, match=r"cannot open .*\nhint: it must be a file"):
        open_store(f"sqlite:///{tmp_path}/file/store.sqlite")


@pytest.mark.parametrize("slashes", ["", "/", "//"])
def test_a_url_is_two_slashes_and_a_path_as_that_of_a_log(
    slashes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two slashes begin a relative path; three and four an absolute one."""
    monkeypatch.chdir(tmp_path)
    path = f"{slashes}{str(tmp_path)[1:]}/here.sqlite" if slashes else "here.sqlite"
    open_store(f"sqlite://{path}").close()
    assert (tmp_path / "here.sqlite").is_file()
    with contextlib.closing(sqlite3.connect(tmp_path / "here.sqlite")) as own:
        own.execute("CREATE TABLE clicks (user_id TEXT, item_id TEXT)")
    assert database_table(f"sqlite://{path}?table=clicks").columns().names == ["user_id", "item_id"]


def test_a_store_of_0_1_is_not_passed_over_for_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    open_store("sqlite://old/here.sqlite").close()
    for path in ("old/here.sqlite", "new.sqlite"):  # three slashes were relative
        told = f"there is no file '/{path}'(.|\n)*two slashes: sqlite://{path}"
        with pytest.raises(HistoryStoreError, match=told):
            open_store(f"sqlite:///{path}")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
