"""A history store of version 0.1 is migrated in place, whenever the migration is killed."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis_server import RedisServer
from stores import click, count, items

from crossfeed.errors import HistoryStoreError
from crossfeed.serving.histories.availability import ItemFlag
from crossfeed.serving.histories.history import HistoryStore
from crossfeed.serving.histories.url import open_store

OLD_FILE = """
PRAGMA journal_mode = WAL;
BEGIN;
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id NOT NULL CHECK (typeof(user_id) IN ('text', 'integer')),
    item_id NOT NULL CHECK (typeof(item_id) IN ('text', 'integer')),
    domain TEXT NOT NULL,
    timestamp INTEGER NOT NULL CHECK (typeof(timestamp) = 'integer'),
    event_id TEXT UNIQUE
);
CREATE INDEX events_of_user ON events (user_id, timestamp);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
PRAGMA application_id = 0x63726664;
CREATE TABLE unavailable (
    domain TEXT NOT NULL,
    item_id NOT NULL CHECK (typeof(item_id) IN ('text', 'integer')),
    PRIMARY KEY (domain, item_id)
) WITHOUT ROWID;
PRAGMA user_version = 2;
INSERT INTO facts VALUES ('filled_from', 'v1'), ('flags_version', '5');
INSERT INTO unavailable VALUES ('books', 'b9'), ('books', 7);
INSERT INTO events (user_id, item_id, domain, timestamp, event_id) VALUES
    ('ann', 'b2', 'books', 200, 'e2'), ('ann', 'b1', 'books', 100, NULL),
    ('bob', 'b3', 'books', 5, 'e3');
COMMIT;
"""
"""What version 0.1 wrote, in its last format."""


@pytest.fixture
def old_file(file: Path) -> Path:
    connection = sqlite3.connect(file)
    connection.executescript(OLD_FILE)
    connection.close()
    return file


def is_whole(store: HistoryStore) -> None:
    """Check that a store holds what the old one did, and all that is new works."""
    assert items(store) == ["b1", "b2"]
    assert items(store, "bob") == ["b3"]
    assert count(store) == 3
    assert not store.bulk.is_new()
    flags, sequence = store.flags_since(0)
    assert sorted(flags, key=str) == sorted(
        [ItemFlag(7, "books", False), ItemFlag("b9", "books", False)], key=str
    )
    assert sequence == 5
    assert store.append([click("e2", time=200, item="b2")]) == (0, 1)
    assert store.set_available([ItemFlag("b9", "books", True)]) == 1
    assert store.flags_since(5) == ([ItemFlag("b9", "books", True)], 6)
    assert store.pins(limit=1) == []
    assert store.pin("v1").version == "v1"
    assert store.forget("ann") == 2
    assert store.append([click("e2", time=200, item="b2")]) == (0, 1)
    assert count(store) == 1


def test_a_file_of_0_1_is_migrated(old_file: Path) -> None:
    store = open_store(f"sqlite:///{old_file}")
    is_whole(store)
    store.close()


def test_a_file_of_the_first_format_is_migrated(old_file: Path) -> None:
    connection = sqlite3.connect(old_file)
    connection.executescript("DROP TABLE unavailable; PRAGMA user_version = 1;")
    connection.close()
    store = open_store(f"sqlite:///{old_file}")
    assert items(store) == ["b1", "b2"]
    assert store.flags_since(5) == ([], 5)
    store.close()


_KILLED = """
import os, signal, sqlite3, sys
from crossfeed.serving.histories.sqlite import file
from pathlib import Path

left = int(sys.argv[2])

class Killed(sqlite3.Connection):
    def execute(self, *given):
        global left
        if self.in_transaction or given[0].startswith("BEGIN"):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().execute(*given)

connect = sqlite3.connect
sqlite3.connect = lambda *given, **named: connect(*given, **named, factory=Killed)
file.open_file(Path(sys.argv[1]), busy_seconds=1).close()
"""


def test_a_migration_that_is_killed_at_any_statement_is_made_up_for(old_file: Path) -> None:
    """Each run gets one statement further than the one before, until one gets through."""
    content, killed = old_file.read_bytes(), 0
    for statements in range(100):
        old_file.write_bytes(content)
        for rest in old_file.parent.glob(f"{old_file.name}-*"):
            rest.unlink()
        run = subprocess.run([sys.executable, "-c", _KILLED, str(old_file), str(statements)])
        store = open_store(f"sqlite:///{old_file}")
        is_whole(store)
        store.close()
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL
        killed += 1
    assert run.returncode == 0
    assert killed >= 12  # the beginning, each statement and the end


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """Return a server of our own with what version 0.1 wrote."""
    folder = tmp_path / "redis"
    folder.mkdir()
    started = RedisServer(folder)
    with redis.Redis.from_url(started.url) as client:
        client.set("crossfeed:counter", 3)
        client.hset("crossfeed:facts", "filled_from", "v1")
        client.zadd(
            "crossfeed:timeline:s:ann",
            {f'{1:016}["b1","books"]\n': 100, f'{2:016}["b2","books"]\ne2': 200},
        )
        client.zadd("crossfeed:timeline:s:bob", {f'{3:016}["b3","books"]\ne3': 5})
        client.sadd("crossfeed:event-ids", "e2", "e3")
        client.sadd("crossfeed:unavailable", '["b9","books"]', '[7,"books"]')
        client.set("crossfeed:flags-version", 5)
    yield started
    started.kill()


def test_a_server_of_0_1_is_migrated(server: RedisServer) -> None:
    store, other = open_store(server.url), open_store(server.url)
    assert items(other) == ["b1", "b2"]
    is_whole(store)
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        keys = set(client.scan_iter("crossfeed:*"))
        assert not keys & {"crossfeed:event-ids", "crossfeed:unavailable"}
        [event_ids] = [key for key in keys if key.startswith("crossfeed:event-ids:")]
        assert client.ttl(event_ids) > 0
    store.close()
    other.close()


def test_a_server_that_is_killed_after_its_migration_is_whole(server: RedisServer) -> None:
    """The migration is one script, which the server's log holds whole or not at all."""
    store = open_store(server.url)
    store.ping()
    server.kill()
    server.start()
    is_whole(store)
    store.close()


def test_half_of_a_migration_in_the_servers_log_is_dropped(server: RedisServer) -> None:
    store = open_store(server.url)
    store.ping()
    store.close()
    server.kill()
    [log] = server.folder.glob("appendonlydir/*.incr.aof")
    content = log.read_bytes()
    start = content.rindex(b"MULTI")
    assert b"format_version" in content[start:]
    for cut in (content.index(b"flags-out", start), content.rindex(b"format_version")):
        log.write_bytes(content[:cut])
        server.start()
        again = open_store(server.url)
        assert items(again) == ["b1", "b2"]
        assert again.flags_since(0)[1] == 5
        again.close()
        server.kill()


def test_a_server_with_a_newer_format_is_refused(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.hset("crossfeed:facts", "format_version", "3")
    store = open_store(server.url)
    told = r"has format version 3; this crossfeed reads 2 and older ones\nhint: export it with"
    with pytest.raises(HistoryStoreError, match=told):
        store.read_many(["ann"])
    store.close()
