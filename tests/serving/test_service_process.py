"""The service as a process: killed, ended in order, with clients that do not go on."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from service import Service
from stores import items

from crossfeed.serving.histories.url import open_store

KEY = "a-key-of-enough-characters"
EPOCH = 1_700_000_000_000


def event(number: int, user: str = "new-user") -> dict[str, object]:
    return {
        "event_id": f"e{number}",
        "user_id": user,
        "item_id": "a03",
        "domain": "articles",
        "timestamp": EPOCH + number,
    }


def test_a_service_that_is_ended_finishes_its_work_and_keeps_it(
    bundle_path: Path, tmp_path: Path
) -> None:
    """The second half of a request's body is sent after the process was told to end."""
    url, log = f"sqlite:///{tmp_path}/store.sqlite", tmp_path / "log"
    body = json.dumps({"events": [event(1)]}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}

    def halves() -> Iterator[bytes]:
        yield body[:20]
        time.sleep(0.2)  # for the service to begin with it
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        yield body[20:]

    with Service(bundle_path, url, log=log, keys=KEY) as service:
        with httpx2.Client(base_url=service.url, timeout=30) as client:
            client.headers["x-api-key"] = KEY
            client.get("/v1/users/new-user/history?secret=query")
            answer = client.post("/v1/events", content=halves(), headers=headers)
            assert answer.json() == {"accepted": 1, "duplicates": 0}
        assert service.process.wait(timeout=30) == -signal.SIGTERM
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{service.url}/health/live")
    store = open_store(url)
    assert items(store, "new-user") == ["a03"]
    assert items(store, "u001") != []
    store.close()
    logged = log.read_text()
    assert '"route": "/v1/events", "status": 200' in logged
    assert "every event is on disk before it is acknowledged" in logged
    for private in (KEY, "new-user", "query"):
        assert private not in logged


class Sender:
    """Sends numbered events to a service and remembers which ones it acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.half_way = threading.Event()

    def send(self, client: httpx2.Client, numbers: range) -> bool:
        """Return whether the events were acknowledged; a service that died does not."""
        try:
            body = {"events": [event(number) for number in numbers]}
            answer = client.post("/v1/events", json=body)
        except httpx2.TransportError:
            return False
        assert answer.status_code == 200
        self.acknowledged.extend(numbers)
        if len(self.acknowledged) >= 5_000:
            self.half_way.set()
        return True


def test_killing_it_during_10_000_acknowledged_events_loses_none(
    bundle_path: Path, tmp_path: Path
) -> None:
    """What the killed process did not acknowledge is sent again to the next one."""
    url, log, sender = f"sqlite:///{tmp_path}/store.sqlite", tmp_path / "log", Sender()
    waiting = [range(first, first + 25) for first in range(0, 10_000, 25)]
    for kill in (True, False):
        with (
            Service(bundle_path, url, log=log) as service,
            httpx2.Client(base_url=service.url, timeout=30) as client,
            ThreadPoolExecutor(8) as pool,
        ):
            sent = [pool.submit(sender.send, client, numbers) for numbers in waiting]
            if kill:
                assert sender.half_way.wait(60)
                assert service.end(signal.SIGKILL) == -signal.SIGKILL
            waiting = [
                numbers for numbers, done in zip(waiting, sent, strict=True) if not done.result()
            ]
        assert bool(waiting) == kill
    assert sorted(sender.acknowledged) == list(range(10_000))
    store = open_store(url)
    assert [kept.timestamp - EPOCH for kept in store.read_many(["new-user"])[0]] == list(
        range(10_000)
    )
    store.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_nobody_waits_where_nobody_reads_the_log(
    workers: int, bundle_path: Path, tmp_path: Path
) -> None:
    """The log goes into a pipe that holds 64 KiB; the lines of 1,000 requests are more."""
    pipe = tmp_path / "log"
    os.mkfifo(pipe)
    held = os.open(pipe, os.O_RDWR)
    url = f"sqlite:///{tmp_path}/store.sqlite"
    with (
        Service(bundle_path, url, log=pipe, workers=workers) as service,
        httpx2.Client(base_url=service.url, timeout=30) as client,
    ):
        for _ in range(1_000):
            client.get("/v1/domains").raise_for_status()
        assert client.get("/health/live").status_code == 200
        assert service.end(signal.SIGTERM) == -signal.SIGTERM
    os.close(held)


@pytest.fixture(scope="module")
def service(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("service") / "log"
    with Service(bundle_path, "sqlite://", log=log) as started:
        yield started


@pytest.mark.parametrize(
    "begin",
    [
        b"GET /health/live HTTP/1.1\r\nx-long: ",
        b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        b"1\r\n{\r\n0\r\nx-long: ",
    ],
    ids=["before the body", "behind it"],
)
def test_headers_without_end_are_hung_up_on(begin: bytes, service: Service) -> None:
    usual = httpx2.get(f"{service.url}/health/live", headers={"x-long": "x" * 30_000})
    assert usual.status_code == 200
    port = int(service.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(begin)
        for _ in range(100):
            if select.select([connection], [], [], 0.05)[0]:
                break
            connection.sendall(b"x" * 10_000)
        assert connection.recv(100).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "come",
    [
        b"",
        b"GET /health/live HTTP/1.1\r\nx-slow: ",
        b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\nGET /health/live HTTP/1.1\r\nx: ",
    ],
    ids=["nothing", "half of the first", "half of the second"],
)
def test_headers_that_do_not_come_are_hung_up_on(
    come: bytes, bundle_path: Path, tmp_path: Path
) -> None:
    """A drop of bytes now and then makes no difference."""
    with Service(bundle_path, "sqlite://", log=tmp_path / "log", timeout_seconds=0.5) as it:
        port = int(it.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(come)
            answered = b""
            for _ in range(200):
                if select.select([connection], [], [], 0.05)[0]:
                    if not (more := connection.recv(10_000)):
                        break
                    answered += more
                elif come and b" 408 " not in answered:
                    connection.sendall(b"x")
            else:
                raise AssertionError("the connection is still open")
        assert answered.count(b"HTTP/1.1 408 ") == 1
        assert answered.count(b"HTTP/1.1 200 ") == come.count(b"\r\n\r\n")
        assert httpx2.get(f"{it.url}/health/live").status_code == 200
