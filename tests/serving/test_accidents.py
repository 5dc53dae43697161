"""What the service answers while its store is gone, its disk full or its clock wrong."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis_server import RedisServer
from starlette.testclient import TestClient

from crossfeed.bundle import Bundle
from crossfeed.serving.histories.history import Event
from crossfeed.serving.histories.sqlite.store import SqliteHistoryStore
from crossfeed.serving.histories.url import open_store
from crossfeed.serving.http.app import create_app
from crossfeed.serving.http.guards.limits import Limits
from crossfeed.serving.ids import Id
from crossfeed.serving.operations.monitoring import REQUEST_LOG

RECOMMENDED = "/v1/users/u001/recommendations?domain=videos&k=3"
HISTORY = [{"item_id": "a03", "domain": "articles", "timestamp": 1_700_000_000}]


def event(name: str, **changed: object) -> dict[str, object]:
    times = {"timestamp": 1_700_000_000}
    return {"event_id": name, "user_id": "ann", "item_id": "a03", "domain": "articles"} | {
        **times,
        **changed,
    }


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    folder = tmp_path / "redis"
    folder.mkdir()
    started = RedisServer(folder)
    yield started
    started.kill()


@pytest.fixture
def client(bundle: Bundle, server: RedisServer) -> Iterator[TestClient]:
    with TestClient(create_app(bundle, store=open_store(server.url))) as client:
        yield client


def recovered(client: TestClient) -> dict[str, object]:
    """Wait until answers know the user again; the store is tried twice a second."""
    for _ in range(200):
        answer = dict(client.get(RECOMMENDED).json())
        if answer["degraded"] is None:
            return answer
        time.sleep(0.02)
    raise AssertionError("the service did not recover")


def test_without_its_store_the_service_answers_less_says_so_and_recovers(
    client: TestClient, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=REQUEST_LOG)
    whole = client.get(RECOMMENDED).json()
    assert whole["fallback"] is None and whole["degraded"] is None
    of_history = client.post("/v1/recommend", json={"history": HISTORY, "domain": "videos"}).json()
    assert client.post("/v1/events", json={"events": [event("e1")]}).status_code == 200

    server.kill()
    for _ in range(3):
        less = client.get(RECOMMENDED)
        assert less.status_code == 200
        assert less.json()["fallback"] == "recent"
        assert less.json()["degraded"] == "the history store does not answer"
        assert len(less.json()["items"]) == 3
    again = client.post("/v1/recommend", json={"history": HISTORY, "domain": "videos"}).json()
    assert again["items"] == of_history["items"] and again["degraded"] is None
    for refused in (
        client.post("/v1/events", json={"events": [event("e2")]}),
        client.get("/v1/users/ann/history"),
        client.delete("/v1/users/ann"),
    ):
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "127.0.0.1" not in refused.text
    while (ready := client.get("/health/ready")).json()["status"] == "ready":
        assert ready.status_code == 200
        time.sleep(0.05)  # the answer of a moment ago
    assert ready.status_code == 200
    assert ready.json()["status"] == "degraded"
    assert ready.json()["history_store"]["reachable"] is False
    page = client.get("/metrics").text
    assert 'crossfeed_store_errors_total{operation="read"}' in page
    assert 'crossfeed_store_errors_total{operation="append"} 1.0' in page
    assert 'fallback="recent",user="unreachable"} 3.0' in page
    assert "127.0.0.1" in caplog.text  # the log may name the store; no user
    for private in ("u001", 'ann"', "/ann"):
        assert private not in caplog.text

    server.start()
    assert recovered(client)["items"] == whole["items"]
    while client.get("/health/ready").json()["status"] == "degraded":
        time.sleep(0.05)
    time.sleep(0.5)
    sent_again = {"events": [event("e1"), event("e2")]}
    assert client.post("/v1/events", json=sent_again).json() == {"accepted": 1, "duplicates": 1}


def test_a_store_that_may_lose_events_is_stated(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis", "--appendfsync", "everysec")
    caplog.set_level(logging.INFO, logger=REQUEST_LOG)
    with TestClient(create_app(bundle, store=open_store(server.url))) as client:
        ready = client.get("/health/ready").json()
        assert ready["history_store"]["durable"] is False
        assert "appendfsync everysec" in ready["history_store"]["durability"]
        assert "crossfeed_store_durable 0.0" in client.get("/metrics").text
    [stated] = [record for record in caplog.records if '"history store"' in record.getMessage()]
    assert stated.levelno == logging.WARNING
    assert json.loads(stated.getMessage())["durable"] is False
    server.stop()


@pytest.mark.parametrize("kind", ["file", "redis"])
def test_an_event_is_known_through_another_worker(
    kind: str, bundle: Bundle, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/store.sqlite"
    if kind == "redis":
        url = request.getfixturevalue("server").url
    one, other = (create_app(bundle, store=open_store(url)) for _ in range(2))
    asked = "/v1/users/ann/recommendations?domain=articles&k=20"
    with TestClient(one) as writer, TestClient(other) as reader:
        assert reader.get(asked).json()["fallback"] == "popular"
        assert writer.post("/v1/events", json={"events": [event("e1")]}).status_code == 200
        answer = reader.get(asked).json()
        assert answer["fallback"] is None
        assert "a03" not in {item["item_id"] for item in answer["items"]}
        assert writer.delete("/v1/users/ann").json()["forgotten"] == 1
        assert reader.get(asked).json()["fallback"] == "popular"


def test_a_full_disk_refuses_events_keeps_the_old_and_answers_on(
    bundle: Bundle, tmp_path: Path
) -> None:
    store = SqliteHistoryStore(tmp_path / "store.sqlite")

    def pages(most: int) -> None:
        store.connections.write(lambda c: c.execute(f"PRAGMA max_page_count = {most}").fetchone())

    with TestClient(create_app(bundle, store=store)) as client:
        whole = client.get(RECOMMENDED).json()["items"]
        pages(1)  # SQLite takes the pages that there are
        many = [event(f"e{number}", item_id="x" * 1000) for number in range(100)]
        refused = client.post("/v1/events", json={"events": many})
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "disk" not in refused.text
        assert client.get("/v1/users/ann/history").json()["events"] == []
        assert client.get(RECOMMENDED).json()["items"] == whole
        pages(100_000)
        time.sleep(0.5)
        assert client.post("/v1/events", json={"events": many}).json()["accepted"] == 100


class Hanging(SqliteHistoryStore):
    """A store that answers once it is told to, and counts who waits."""

    def __init__(self) -> None:
        super().__init__(None)
        self.go = threading.Event()
        self.reads = self.pings = 0

    def read_many(
        self, user_ids: Sequence[Id], *, limit: int | None = None
    ) -> list[Sequence[Event]]:
        self.reads += 1
        assert self.go.wait(30)
        return super().read_many(user_ids, limit=limit)

    def ping(self) -> None:
        self.pings += 1
        assert self.go.wait(30)
        super().ping()


def test_health_and_metrics_do_not_wait_for_a_store_that_hangs(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossfeed.serving.http.app._CHECK_SECONDS", 0.05)
    store = Hanging()
    app = create_app(bundle, store=store, limits=Limits(timeout_seconds=60))
    with TestClient(app) as client, ThreadPoolExecutor(60) as pool:
        asked = [pool.submit(client.get, "/v1/users/ann/history") for _ in range(60)]
        while store.reads < 40:  # all threads of the other routes
            time.sleep(0.01)
        for _ in range(3):
            ready = client.get("/health/ready")
            assert ready.status_code == 200
            assert ready.json()["status"] == "degraded"
        assert client.get("/metrics").status_code == 200
        assert store.pings == 1
        store.go.set()
        assert {one.result().status_code for one in asked} == {200}
        monkeypatch.setattr("crossfeed.serving.http.app._CHECK_SECONDS", 30)
        assert client.get("/health/ready").json()["status"] == "ready"


def test_a_clock_that_jumps_mixes_up_nothing(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order, identity and what is known depend on the events alone, whatever the clock shows."""
    now, day = 1_750_000_000, 86_400
    app = create_app(bundle, store=SqliteHistoryStore(tmp_path / "store.sqlite"))
    sent = [("e1", "a03", 0), ("e2", "a04", -30 * day), ("e3", "a05", 365 * day), ("e4", "a06", 5)]
    with TestClient(app) as client:
        for name, item_id, jump in sent:
            monkeypatch.setattr(
                "crossfeed.serving.histories.history.time.time", lambda jump=jump: now + jump
            )
            body = {"events": [event(name, item_id=item_id, timestamp=now + jump)]}
            assert client.post("/v1/events", json=body).json() == {"accepted": 1, "duplicates": 0}
            assert client.post("/v1/events", json=body).json() == {"accepted": 0, "duplicates": 1}
        # The clock went back: what is ahead of it by more than a day is refused, the old stays.
        late = {"events": [event("e5", timestamp=now + 300 * day)]}
        assert client.post("/v1/events", json=late).status_code == 422
        kept = client.get("/v1/users/ann/history").json()["events"]
        assert [one["item_id"] for one in kept] == ["a04", "a03", "a06", "a05"]
        answer = client.get("/v1/users/ann/recommendations?domain=articles&k=20").json()
        assert {"a03", "a04", "a05", "a06"}.isdisjoint(one["item_id"] for one in answer["items"])
