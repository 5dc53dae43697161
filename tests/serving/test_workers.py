"""Several workers behind one port, several replicas of one store: one model, ended together."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2
import pytest
from bundles import best, variant
from redis_server import RedisServer
from service import Service, is_running

from crossfeed.bundle import Bundle
from crossfeed.errors import ConfigError
from crossfeed.serving.histories.url import open_store
from crossfeed.serving.process.server import serve

ASKED = "/v1/users/u001/recommendations?domain=videos&k=5"
EVENT = {"event_id": "e1", "user_id": "ann", "item_id": "a03", "domain": "articles"}


def until(holds: Callable[[], object]) -> None:
    for _ in range(3_000):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError("it does not come to hold")


def answers(service: Service, path: str) -> list[Any]:
    """Return JSON answers; each connection is new, so that every worker is met."""
    return [httpx2.get(f"{service.url}{path}", timeout=60).json() for _ in range(30)]


def versions(service: Service) -> set[str]:
    return {answer["model_version"] for answer in answers(service, ASKED)}


def metric(service: Service, name: str) -> float:
    """Return a metric; 0 if nothing has counted there yet."""
    page = httpx2.get(f"{service.url}/metrics", timeout=60).text
    found = [line for line in page.splitlines() if line.startswith(f"{name} ")]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def pin(service: Service, wanted: str) -> httpx2.Response:
    """Pin, again and again while a busy machine takes longer than the service waits (503)."""
    for _ in range(20):
        found = httpx2.post(f"{service.url}/v1/model/pin", json={"version": wanted}, timeout=60)
        if found.status_code != 503:
            break
    return found


@pytest.fixture(scope="module")
def other(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("other") / "other"
    return variant(bundle, out, factor=-0.5, clicks=bundle.clicks[::-1])


@pytest.fixture(scope="module")
def first(bundle_path: Path) -> str:
    return Bundle.stated_version(bundle_path)


@pytest.fixture(scope="module")
def second(other: Path) -> str:
    return Bundle.stated_version(other)


@pytest.fixture
def folder(bundle_path: Path, tmp_path: Path) -> Path:
    """Return a folder of versions with one bundle in it."""
    shutil.copytree(bundle_path, tmp_path / "bundles" / "first")
    return tmp_path / "bundles"


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.sqlite"


@pytest.fixture
def service(folder: Path, store_url: str, tmp_path: Path) -> Iterator[Service]:
    log = tmp_path / "log"
    with Service(folder, store_url, log=log, workers=2, timeout_seconds=60) as started:
        yield started
        if started.process.poll() is None:
            assert started.end(signal.SIGTERM) == -signal.SIGTERM


def test_workers_share_one_model_one_store_and_one_page_of_metrics(
    service: Service, first: str
) -> None:
    assert len(service.workers) == 2
    for number in range(20):
        event = {**EVENT, "event_id": f"e{number}", "timestamp": 1_700_000_000 + number}
        httpx2.post(f"{service.url}/v1/events", json={"events": [event]}).raise_for_status()
        told = httpx2.get(f"{service.url}/v1/users/ann/history").json()["events"]
        assert len(told) == number + 1  # whichever worker is asked
    assert versions(service) == {first}
    assert metric(service, 'crossfeed_events_total{outcome="accepted"}') == 20
    assert metric(service, f'crossfeed_model{{version="{first}"}}') == 2
    assert metric(service, "crossfeed_store_durable") == 1


class Clients:
    """Connections that ask without a pause and keep every answer."""

    def __init__(self, service: Service) -> None:
        self._at = urlsplit(service.url).netloc
        self.found: list[tuple[int, bytes]] = []
        self.enough = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.enough.set()

    def ask(self, number: int) -> None:
        connection = http.client.HTTPConnection(self._at, timeout=60)
        for turn in itertools.count(number):
            asked = ASKED if turn % 10 else ASKED.replace("u001", "nobody")
            connection.request("GET", asked)
            answer = connection.getresponse()
            self.found.append((answer.status, answer.read()))
            if self.enough.is_set():
                connection.close()
                return

    def wait_for(self, answers: int) -> None:
        while len(self.found) < answers:
            time.sleep(0.001)


def test_pins_under_load_lose_and_mix_no_answer_of_5_000(
    service: Service, folder: Path, bundle_path: Path, other: Path, first: str, second: str
) -> None:
    """Answers, not seconds, say when a pin comes."""
    shutil.copytree(other, folder / "second")
    clients = Clients(service)
    with ThreadPoolExecutor(16) as pool, clients:
        asking = [pool.submit(clients.ask, number) for number in range(16)]
        for wanted in (second, first):
            clients.wait_for(len(clients.found) + 1_000)
            assert pin(service, wanted).status_code == 200
            name = f'crossfeed_model{{version="{wanted}"}}'
            until(lambda name=name: metric(service, name) == 2)
        clients.wait_for(5_000)
    for one in asking:
        one.result()
    expected = {
        (version, cold): best(path, "nobody" if cold else "u001")
        for version, path in ((first, bundle_path), (second, other))
        for cold in (True, False)
    }
    assert {status for status, _ in clients.found} == {200}
    seen = set()
    for answer in (json.loads(body) for _, body in clients.found):
        kind = answer["model_version"], answer["fallback"] is not None
        assert [item["item_id"] for item in answer["items"]] == expected[kind]
        seen.add(kind)
    assert seen == set(expected)


def test_a_broken_bundle_changes_nothing_and_is_reported(
    service: Service,
    folder: Path,
    store_url: str,
    other: Path,
    first: str,
    second: str,
    tmp_path: Path,
) -> None:
    shutil.copytree(other, folder / "broken")
    whole = (folder / "broken" / "weights.safetensors").read_bytes()
    (folder / "broken" / "weights.safetensors").write_bytes(whole[:-1])
    refused = pin(service, second)
    assert refused.status_code == 409 and f"model {first} stays" in refused.json()["detail"]
    store = open_store(store_url)
    assert [one.version for one in store.pins(limit=9)] == [first]
    store.pin(second)  # somebody else does, without a look at it
    store.close()
    until(lambda: metric(service, "crossfeed_model_problem") == 2)
    assert versions(service) == {first}
    for ready in answers(service, "/health/ready"):
        assert (ready["status"], ready["model_version"]) == ("degraded", first)
        assert ready["pinned_version"] == second
        assert f"version {second} cannot be put into service" in ready["problem"]
    assert "weights.safetensors has" in (tmp_path / "log").read_text()
    (folder / "broken" / "weights.safetensors").write_bytes(whole)
    until(lambda: metric(service, f'crossfeed_model{{version="{second}"}}') == 2)
    assert metric(service, "crossfeed_model_problem") == 0
    assert {ready["status"] for ready in answers(service, "/health/ready")} == {"ready"}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_hangs_is_replaced_and_deploys_nothing(
    how: signal.Signals, service: Service, folder: Path, other: Path, first: str
) -> None:
    """The folder holds a newer bundle by then, which nobody pinned."""
    sent = {"events": [{**EVENT, "timestamp": 1_700_000_000}]}
    httpx2.post(f"{service.url}/v1/events", json=sent).raise_for_status()
    before = service.workers
    shutil.copytree(other, folder / "second")
    os.kill(min(before), how)
    until(lambda: len(service.workers - before) == 1 and len(service.workers) == 2)
    assert not is_running(min(before))
    until(lambda: metric(service, f'crossfeed_model{{version="{first}"}}') == 2)
    assert versions(service) == {first}
    assert metric(service, 'crossfeed_events_total{outcome="accepted"}') == 1


def test_a_worker_without_a_bundle_waits_for_one_and_the_others_answer(
    service: Service, folder: Path, first: str, tmp_path: Path
) -> None:
    before = service.workers
    folder.rename(tmp_path / "away")
    os.kill(min(before), signal.SIGKILL)
    until(lambda: "no model can be loaded" in (tmp_path / "log").read_text())
    assert versions(service) == {first}
    (tmp_path / "away").rename(folder)
    until(lambda: metric(service, f'crossfeed_model{{version="{first}"}}') == 2)
    assert max(before) in service.workers


def test_a_worker_that_is_loading_does_not_keep_the_service_from_ending(
    service: Service, folder: Path, tmp_path: Path
) -> None:
    """It has no bundle, and would be given two minutes to finish its requests."""
    folder.rename(tmp_path / "away")
    os.kill(min(service.workers), signal.SIGKILL)
    until(lambda: "no model can be loaded" in (tmp_path / "log").read_text())
    workers = service.workers
    assert service.end(signal.SIGTERM) == -signal.SIGTERM  # within a minute
    assert not any(map(is_running, workers))


def is_refused(service: Service) -> bool:
    at = urlsplit(service.url)
    try:
        socket.create_connection((str(at.hostname), int(at.port or 0)), timeout=60).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("workers", [1, 2])
def test_who_is_told_to_end_refuses_new_clients_and_finishes_begun_answers(
    workers: int, folder: Path, store_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with Service(folder, store_url, log=log, workers=workers, timeout_seconds=30) as service:
        begun = [_begun(service) for _ in range(4)]
        service.process.send_signal(signal.SIGTERM)
        until(lambda: is_refused(service))
        assert service.process.poll() is None  # it waits for what is begun
        for connection, rest in begun:
            connection.sendall(rest)
            assert connection.recv(10_000).startswith(b"HTTP/1.1 200 ")
            connection.close()
        assert service.process.wait(timeout=60) == -signal.SIGTERM


def _begun(service: Service) -> tuple[socket.socket, bytes]:
    """Send the half of a request, and wait until its worker reads the body."""
    at = urlsplit(service.url)
    connection = socket.create_connection((str(at.hostname), int(at.port or 0)), timeout=60)
    body = json.dumps({"events": [{**EVENT, "timestamp": 1_700_000_000}]}).encode()
    head = (
        "POST /v1/events HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode())
    assert connection.recv(1_000).startswith(b"HTTP/1.1 100 ")
    return connection, body


def test_a_hung_worker_does_not_keep_the_service_from_ending(
    folder: Path, store_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with Service(folder, store_url, log=log, workers=2, timeout_seconds=0.5) as service:
        workers = service.workers
        os.kill(min(workers), signal.SIGSTOP)
        assert service.end(signal.SIGTERM) == -signal.SIGTERM
        assert not any(map(is_running, workers))


def test_no_worker_outlives_its_parent(service: Service) -> None:
    workers = service.workers
    assert len(workers) == 2
    assert service.end(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: not any(map(is_running, workers)))


def test_nothing_is_imported_from_the_working_directory(
    folder: Path, store_url: str, tmp_path: Path
) -> None:
    planted = tmp_path / "working-directory"
    planted.mkdir()
    for name in ("queue", "json", "logging", "multiprocessing", "selectors", "crossfeed"):
        (planted / f"{name}.py").write_text("open('imported', 'w').close()\nraise SystemExit(9)\n")
    log = tmp_path / "log"
    with Service(folder, store_url, log=log, workers=2, folder=planted) as service:
        assert httpx2.get(f"{service.url}/health/ready").status_code == 200
        assert service.end(signal.SIGTERM) == -signal.SIGTERM
    assert not (planted / "imported").exists()


def test_histories_in_memory_cannot_be_shared(bundle_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot share histories in memory\nhint: name a file"):
        serve(bundle_path, port=0, history_store="sqlite://", workers=2)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "redis").mkdir()
    started = RedisServer(tmp_path / "redis")
    yield started
    started.kill()


def test_two_replicas_follow_one_pin(
    server: RedisServer, folder: Path, other: Path, first: str, second: str, tmp_path: Path
) -> None:
    """The second replica's folder gets the bundle later."""
    late = Path(shutil.copytree(folder, tmp_path / "late"))
    shutil.copytree(other, folder / "second")
    os.utime(folder / "second" / "bundle.json", (0, 0))  # the older one
    with (
        Service(folder, server.url, log=tmp_path / "one") as one,
        Service(late, server.url, log=tmp_path / "two") as two,
    ):
        assert versions(one) == versions(two) == {first}
        assert pin(two, second).status_code == 404
        assert pin(one, second).json() == {"pinned_version": second, "model_version": second}
        ready = f"{two.url}/health/ready"
        until(lambda: httpx2.get(ready).json()["pinned_version"] == second)
        told = httpx2.get(ready).json()
        assert (told["status"], told["model_version"]) == ("degraded", first)
        assert told["problem"] == f"the pinned version {second} is not in the folder of bundles"
        shutil.copytree(other, late / ".second")
        (late / ".second").rename(late / "second")
        until(lambda: httpx2.get(ready).json()["model_version"] == second)
        assert pin(two, first).status_code == 200  # and back
        until(lambda: versions(one) == {first})
    with Service(folder, server.url, log=tmp_path / "again") as again:
        assert versions(again) == {first}


def test_a_service_starts_without_its_store_and_takes_it_up(
    server: RedisServer, folder: Path, first: str, tmp_path: Path
) -> None:
    server.stop()
    with Service(folder, server.url, log=tmp_path / "log", workers=2) as service:
        assert versions(service) == {first}
        ready = httpx2.get(f"{service.url}/health/ready").json()
        assert (ready["status"], ready["pinned_version"]) == ("degraded", None)
        server.start()
        until(lambda: {one["status"] for one in answers(service, "/health/ready")} == {"ready"})
        until(lambda: {one["fallback"] for one in answers(service, ASKED)} == {None})  # filled
        until(lambda: open_pins(server) == [first])


def open_pins(server: RedisServer) -> list[str]:
    store = open_store(server.url)
    found = [one.version for one in store.pins(limit=9)]
    store.close()
    return found
