"""Several workers behind one port: one model, one store, one memory; ended together."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import httpx2
import numpy as np
import pyarrow as pa
import pytest
from service import Service

from crossfeed.bundle import Bundle, BundleContents, write_bundle
from crossfeed.errors import ConfigError
from crossfeed.serving.operations.metric_pages import merged
from crossfeed.serving.process.channel import Channel, ChannelClosed
from crossfeed.serving.process.server import serve
from crossfeed.serving.process.supervisor import Supervisor

ASKED = "/v1/users/u001/recommendations?domain=videos&k=3"
EVENT = {"event_id": "e1", "user_id": "ann", "item_id": "a03", "domain": "articles"}


def children(process: int) -> set[int]:
    listed = Path(f"/proc/{process}/task/{process}/children").read_text()
    return {int(child) for child in listed.split()}


def until(holds: Callable[[], bool]) -> None:
    for _ in range(1_500):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError("it does not come to hold")


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def versions(service: Service) -> set[str]:
    """Return the models that answer; each connection is new, so that every worker is met."""
    return {httpx2.get(f"{service.url}{ASKED}").json()["model_version"] for _ in range(40)}


@pytest.fixture(scope="module")
def other(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    contents = BundleContents(
        scorer=bundle.scorer,
        item_ids=pa.chunked_array([bundle.item_ids]),
        user_id_type=bundle.user_id_type,
        clicks=bundle.clicks,
        recent_clicks=bundle.recent_clicks,
        histories=None,
        card={"another": True},
        encoder=(bundle.path / "user_encoder.onnx").read_bytes(),
    )
    return write_bundle(tmp_path_factory.mktemp("other") / "bundle", contents)


@pytest.fixture
def folder(bundle_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_path, tmp_path / "bundle"))


@pytest.fixture
def service(folder: Path, tmp_path: Path) -> Iterator[Service]:
    store = f"sqlite:///{tmp_path}/store.sqlite"
    with Service(folder, store, log=tmp_path / "log", workers=2) as started:
        yield started
        if started.process.poll() is None:
            assert started.end(signal.SIGTERM) == -signal.SIGTERM


def reload(service: Service) -> httpx2.Response:
    return httpx2.post(f"{service.url}/v1/model/reload", timeout=60)


def put_in_place(folder: Path, bundle: Path) -> None:
    """Replace a served folder as an export with --overwrite does: its old files stay mapped."""
    folder.rename(folder.with_name(f"old-{time.time_ns()}"))
    shutil.copytree(bundle, folder)


def test_workers_share_one_model_one_store_and_one_page_of_metrics(
    service: Service, bundle: Bundle
) -> None:
    assert len(children(service.process.pid)) == 2
    for number in range(20):
        event = {**EVENT, "event_id": f"e{number}", "timestamp": 1_700_000_000 + number}
        httpx2.post(f"{service.url}/v1/events", json={"events": [event]}).raise_for_status()
        told = httpx2.get(f"{service.url}/v1/users/ann/history").json()["events"]
        assert len(told) == number + 1  # whichever worker is asked
    assert versions(service) == {bundle.version}
    page = httpx2.get(f"{service.url}/metrics").text
    counted = [line for line in page.splitlines() if line.startswith("crossfeed_events_total")]
    accepted = [float(line.split()[1]) for line in counted if 'outcome="accepted"' in line]
    assert sum(accepted) == 20
    workers = {line.partition('worker="')[2][0] for line in counted}
    assert workers <= {"0", "1"} and page.count("# TYPE crossfeed_model gauge") == 1
    assert page.count(f'crossfeed_model{{version="{bundle.version}",worker=') == 2


def test_all_workers_reload_or_none(
    service: Service, folder: Path, bundle: Bundle, other: Path, tmp_path: Path
) -> None:
    assert reload(service).json() == {"model_version": bundle.version, "changed": False}
    put_in_place(folder, other)
    fresh = Bundle.load(other).version
    assert reload(service).json() == {"model_version": fresh, "changed": True}
    assert versions(service) == {fresh}

    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"damaged")
    damaged.replace(folder / "items.arrow")
    refused = reload(service)
    assert refused.status_code == 409 and "stays in service" in refused.json()["detail"]
    assert versions(service) == {fresh}
    assert "items.arrow has 7 bytes" in (tmp_path / "log").read_text()

    shutil.rmtree(folder)
    shutil.copytree(next(tmp_path.glob("old-*")), folder)
    os.kill(service.process.pid, signal.SIGHUP)
    until(lambda: versions(service) == {bundle.version})


def test_a_worker_that_dies_is_replaced_and_serves_what_the_others_do(
    service: Service, folder: Path, other: Path
) -> None:
    """The folder holds another model by then: all go over to it together."""
    before = children(service.process.pid)
    put_in_place(folder, other)
    os.kill(min(before), signal.SIGKILL)
    until(lambda: len(children(service.process.pid) - before) == 1)
    fresh = Bundle.load(other).version
    until(lambda: versions(service) == {fresh})
    assert httpx2.get(f"{service.url}/health/ready").json()["status"] == "ready"


def test_a_page_of_metrics_is_there_before_prometheus_gives_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited = []

    def ask_all(what: str, *, seconds: float) -> list[dict[str, str]]:
        waited.append(seconds)
        return [{"error": "worker 0: 'page' was not answered"}, {what: "seen_total 5.0"}]

    with socket.socket() as listening:
        supervisor = Supervisor({}, listening, workers=2, stop_seconds=1)
        monkeypatch.setattr(supervisor, "_ask_all", ask_all)
        assert supervisor._answer("pages", {}) == {"pages": {"1": "seen_total 5.0"}}
    assert waited[0] < 10  # seconds, as Prometheus is set up by default


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_one_in_charge(how: signal.Signals, service: Service) -> None:
    workers = children(service.process.pid)
    assert len(workers) == 2
    assert service.end(how) == -how
    until(lambda: not any(map(is_running, workers)))


def test_a_worker_that_cannot_start_is_told_of(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", shutil.which("false"))
    store = f"sqlite:///{tmp_path}/store.sqlite"
    with pytest.raises(ConfigError, match="worker 0 did not start: see the log"):
        serve(bundle_path, port=0, history_store=store, workers=2)


def test_histories_in_memory_cannot_be_shared(bundle_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot share histories in memory\nhint: name a file"):
        serve(bundle_path, port=0, history_store="sqlite://", workers=2)


def maps(file: Path) -> list[range]:
    """Return where a file is mapped into this process, read-only."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    found = [fields for fields in lines if fields[-1] == str(file) and fields[1][:3] == "r--"]
    bounds = [[int(end, 16) for end in fields[0].split("-")] for fields in found]
    return [range(*pair) for pair in bounds]


def test_what_grows_with_the_catalogue_is_a_map_of_its_file(bundle_path: Path) -> None:
    bundle = Bundle.load(bundle_path)
    arrays = {
        "item_vectors.npy": [bundle.item_vectors],
        "item_biases.npy": [bundle.item_biases],
        "items.arrow": [bundle.clicks, bundle.recent_clicks, bundle.by_id],
    }
    for name, mapped in arrays.items():
        for array in mapped:
            assert not array.flags.writeable
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0
            assert any(array.ctypes.data in area for area in maps(bundle_path / name)), name
    for buffer in bundle.item_ids.buffers()[1:]:
        assert any(buffer.address in area for area in maps(bundle_path / "items.arrow"))


def test_torch_reads_the_same_vectors_from_a_map(bundle: Bundle) -> None:
    table = bundle.scorer.players.discriminator.scoring_layer.vectors.weight
    lines = Path("/proc/self/maps").read_text().splitlines()
    areas = [line.split()[0].split("-") for line in lines if line.endswith("item_vectors.npy")]
    at = table.data_ptr()
    assert any(int(first, 16) <= at < int(last, 16) for first, last in areas)
    width = bundle.config.width
    np.testing.assert_array_equal(table.detach().numpy(), bundle.item_vectors[:, :width])


@dataclass
class Ends:
    one: Channel
    other: Channel
    cut: Callable[[], None]


@pytest.fixture
def ends() -> Iterator[Ends]:
    def answer(what: str, facts: dict[str, object]) -> dict[str, object]:
        if what == "never":
            time.sleep(1)
        return {"said": what, **facts}

    pair = socket.socketpair()
    one, other = (Channel(Connection(os.dup(end.fileno())), answer) for end in pair)
    one.start()
    other.start()
    yield Ends(one, other, lambda: pair[0].shutdown(socket.SHUT_RDWR))
    for end in pair:
        end.close()


def test_both_ends_ask_and_answer(ends: Ends) -> None:
    told = ends.one.ask("hello", seconds=10, to="other")
    assert told == {"said": "hello", "to": "other"}
    assert ends.other.ask("and you", seconds=10) == {"said": "and you"}


def test_who_does_not_answer_or_has_gone_is_not_waited_for(ends: Ends) -> None:
    with pytest.raises(ChannelClosed, match="'never' was not answered"):
        ends.one.ask("never", seconds=0.05)
    ends.cut()
    with pytest.raises(ChannelClosed, match="the other side has gone"):
        ends.one.ask("hello", seconds=60)


def test_pages_of_workers_are_one_page_of_each_metric_once() -> None:
    page = '# HELP seen_total Seen.\n# TYPE seen_total counter\nseen_total{kind="a"} 2.0\n'
    text = merged({"0": page, "1": page.replace("2.0", "5.0")}).decode()
    assert text.count("# TYPE seen_total counter") == 1
    assert 'seen_total{kind="a",worker="0"} 2.0' in text
    assert 'seen_total{kind="a",worker="1"} 5.0' in text
