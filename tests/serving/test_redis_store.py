"""The shared history store: a real server that is killed, hangs, is full or keeps nothing."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import redis
from redis_server import RedisServer
from stores import batch, click, count, items
from typer.testing import CliRunner

from crossfeed.cli import app as command_line
from crossfeed.errors import HistoryStoreError
from crossfeed.serving.histories.availability import ItemFlag
from crossfeed.serving.histories.redis.store import RedisHistoryStore as Store


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """Return a server that this test may ruin."""
    folder = tmp_path / "redis"
    folder.mkdir()
    started = RedisServer(folder)
    yield started
    started.kill()


@pytest.fixture
def own(server: RedisServer) -> Iterator[Store]:
    store = Store(server.url, timeout_seconds=0.2)
    yield store
    store.close()


def change(server: RedisServer, **settings: str) -> None:
    with redis.Redis.from_url(server.url) as client:
        for name, value in settings.items():
            client.config_set(name.replace("_", "-"), value)


def test_a_killed_server_keeps_what_was_acknowledged_and_is_used_again(
    own: Store, server: RedisServer
) -> None:
    acknowledged: list[str] = []
    killed = threading.Event()

    def write() -> None:
        for number in range(100_000):
            try:
                own.append([click(f"e{number}", time=number)])
            except HistoryStoreError:
                killed.set()
                return
            acknowledged.append(f"e{number}")

    writer = threading.Thread(target=write)
    writer.start()
    while len(acknowledged) < 200:
        killed.wait(0.001)
    server.kill()
    writer.join()
    with pytest.raises(HistoryStoreError, match=r"refused.*\nhint: is the server running"):
        own.read_many(["ann"])[0]
    server.start()
    kept = {f"e{event.timestamp}" for event in own.read_many(["ann"])[0]}
    assert set(acknowledged) <= kept
    assert own.append([click("e0"), click("after")]) == (1, 1)


def test_a_server_that_hangs_does_not_hang_the_store(own: Store, server: RedisServer) -> None:
    own.append([click("e1")])
    server.pause()
    with pytest.raises(HistoryStoreError, match=r"(?i)time.*\nhint: is the server running"):
        own.read_many(["ann"])[0]
    server.go_on()
    assert items(own) == ["b1"]


def test_a_full_server_says_so_and_loses_nothing(own: Store, server: RedisServer) -> None:
    own.append([click("e1")])
    change(server, maxmemory="1")
    with pytest.raises(HistoryStoreError, match=r"maxmemory.*\nhint: give the server more memory"):
        own.append([click("e2"), click("e3")])
    with pytest.raises(HistoryStoreError, match="cannot write"):
        own.ping()
    assert items(own) == ["b1"]
    change(server, maxmemory="0")
    own.ping()
    assert own.append([click("e1"), click("e2"), click("e3")]) == (2, 1)


def test_an_error_names_no_item_and_no_user(
    own: Store, server: RedisServer, tmp_path: Path
) -> None:
    change(server, maxmemory="1")
    with pytest.raises(HistoryStoreError, match=r"maxmemory.*\nhint: give the server") as caught:
        own.set_available([ItemFlag("secret-item", "books", False)])
    change(server, maxmemory="0")
    assert "secret" not in str(caught.value)
    with redis.Redis.from_url(server.url) as client:
        client.set("crossfeed:timeline:s:secret-user", "foreign")
    with pytest.raises(HistoryStoreError, match=r"cannot read .*WRONGTYPE") as caught:
        own.bulk.export(tmp_path / "out.parquet")
    assert "secret" not in str(caught.value)


def test_what_another_program_wrote_is_an_error_of_the_store(
    own: Store, server: RedisServer, tmp_path: Path
) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.zadd("crossfeed:timeline:s:ann", {"foreign": 1})
        client.zadd("crossfeed:flags-out", {"foreign": 1})
        client.set("crossfeed:flags-version", "1")
    told = r"cannot read .*\nhint: does another program write to keys that begin with crossfeed:"
    with pytest.raises(HistoryStoreError, match=told):
        own.read_many(["ann"])[0]
    with pytest.raises(HistoryStoreError, match=told):
        own.flags_since(0)
    with pytest.raises(HistoryStoreError, match=told):
        own.bulk.export(tmp_path / "out.parquet")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"appendfsync": "everysec"}, "can lose the events of the last seconds .*everysec"),
        ({"appendonly": "no"}, "loses the events since the last snapshot"),
        ({"maxmemory": "1gb", "maxmemory_policy": "allkeys-lru"}, "histories are dropped .*lru"),
    ],
)
def test_a_server_that_may_lose_events_is_told_of(
    settings: dict[str, str], told: str, own: Store, server: RedisServer
) -> None:
    change(server, maxmemory_policy="volatile-lru", maxmemory="1gb")  # no key of ours may expire
    assert own.durability().kept
    change(server, **settings)
    assert not own.durability().kept
    assert re.search(told, own.durability().sentence)


def test_settings_that_are_not_told_count_as_not_durable(own: Store, server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("ACL", "SETUSER", "default", "-config")
    assert not own.durability().kept
    assert "does not tell" in own.durability().sentence
    own.append([click("e1")])
    assert own.forget("ann") == 1  # its log is the host's own affair


def test_a_password_is_asked_for_and_never_shown(own: Store, server: RedisServer) -> None:
    change(server, requirepass="correct-password")
    wrong = Store(server.url.replace("//", "//:wrong-password@"))
    with pytest.raises(HistoryStoreError, match=r"hint: put user and password") as caught:
        wrong.read_many(["ann"])[0]
    assert "wrong-password" not in str(caught.value)
    right = Store(server.url.replace("//", "//:correct-password@"))
    assert right.read_many(["ann"])[0] == []
    wrong.close()
    right.close()


def test_forget_has_the_servers_log_written_anew(own: Store, server: RedisServer) -> None:
    own.append([click("e1", user="user-to-forget"), click("e2", user="user-to-keep")])
    assert traces(server, "user-to-forget") > 0
    assert own.forget("user-to-forget") == 1
    for _ in range(1_000):
        if not traces(server, "user-to-forget"):
            break
        threading.Event().wait(0.01)
    assert traces(server, "user-to-forget") == 0
    assert traces(server, "user-to-keep") > 0
    assert own.append([click("e1", user="user-to-keep")]) == (1, 0)


def traces(server: RedisServer, user: str) -> int:
    files = [file for file in server.folder.rglob("*") if ".aof" in file.name]
    assert files
    found = 0
    for file in files:
        try:
            found += file.read_bytes().count(user.encode())
        except FileNotFoundError:  # an old log, just removed by the server
            continue
    return found


def test_a_fill_that_breaks_off_is_taken_up_again(own: Store) -> None:
    rows = [("ann", "b1", "books", 10), ("ann", "b2", "books", 10), ("bob", "b1", "books", 5)]

    def broken() -> Iterator[object]:
        yield batch(*rows[:2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        own.bulk.fill(broken(), origin="v1")  # type: ignore[arg-type]
    assert own.bulk.is_new()
    with pytest.raises(HistoryStoreError, match=r"half of the histories of bundle v1\nhint: start"):
        own.bulk.fill([batch(*rows)], origin="v2")
    assert own.bulk.fill([batch(*rows)], origin="v1") == 3
    assert items(own) == ["b1", "b2"]
    assert count(own) == 3
    assert own.bulk.fill([batch(*rows)], origin="v1") == 0


def test_replicas_that_start_together_fill_once(own: Store, server: RedisServer) -> None:
    """One of them finishes while the other is half-way, and a user is forgotten in between."""
    rows = [("ann", "b1", "books", 10), ("bob", "b1", "books", 5)]
    other = Store(server.url)

    def overtaken() -> Iterator[object]:
        yield batch(rows[0])
        assert other.bulk.fill([batch(*rows)], origin="v1") == 2
        assert other.forget("bob") == 1
        yield batch(rows[1])

    assert own.bulk.fill(overtaken(), origin="v1") == 0  # type: ignore[arg-type]
    assert items(own, "ann") == ["b1"]
    assert items(own, "bob") == []
    other.close()


def test_times_that_a_double_would_round_are_refused(own: Store) -> None:
    exact = 2**53 - 1
    own.append([click("e1", time=exact), click("e2", time=-exact)])
    assert [event.timestamp for event in own.read_many(["ann"])[0]] == [-exact, exact]
    with pytest.raises(HistoryStoreError, match="none that an event can have"):
        own.append([click("e3", time=2**53 + 1)])


def test_the_command_line_loads_exports_and_forgets(
    own: Store, server: RedisServer, bundle_path: Path, tmp_path: Path
) -> None:
    def histories(command: str, *words: str | Path) -> str:
        given = ["histories", command, bundle_path, *words, "--history-store", server.url]
        result = CliRunner().invoke(command_line, [str(word) for word in given])
        assert result.exit_code == 0, result.stderr
        return result.stderr

    out = tmp_path / "out.parquet"
    assert "wrote " in histories("export", "--out", out)
    events = count(own)
    assert pq.read_metadata(out).num_rows == events > 0
    assert "erased 18 events of 'u001'" in histories("forget", "u001")
    assert items(own, "u001") == []
    assert f"0 events are new, {events:,} are stored already or" in histories("load", out)
    assert items(own, "u001") == []  # what was forgotten stays so


def test_ids_of_events_expire_and_a_retry_is_still_known(
    own: Store, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.time()
    own.append([click("e1", time=5)])
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        [key] = client.scan_iter("crossfeed:event-ids*")
        assert 30 * 86_400 < client.ttl(key) <= 60 * 86_400
        monkeypatch.setattr("time.time", lambda: began + 30 * 86_400)
        assert own.append([click("e1", time=5), click("e1", user="bob")]) == (0, 2)
        client.delete(key)  # as if expired
    monkeypatch.setattr("time.time", lambda: began + 61 * 86_400)
    assert own.append([click("e1", time=5), click("e1", user="bob")]) == (1, 1)
    assert items(own) == ["b1"]
