"""The exported user encoder gives the eager vectors, alone and in batches, or is not used."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from crossfeed.bundle import Bundle
from crossfeed.config import ModelConfig
from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import OutputError
from crossfeed.export import export
from crossfeed.model.network_scorer import NetworkScorer
from crossfeed.model.onnx.graph import export_encoder
from crossfeed.model.onnx.probes import probes
from crossfeed.model.onnx.runtime import TOLERANCE, OnnxEncoder, largest_difference, open_encoder
from crossfeed.model.players import Players
from crossfeed.run import Run
from crossfeed.scorer import Catalogue, Floats, Histories, Ints
from crossfeed.serving.histories.sqlite.store import SqliteHistoryStore
from crossfeed.serving.http.app import create_app
from crossfeed.serving.recommend.recommender import Recommender


def expected(scorer: NetworkScorer) -> Floats:
    return scorer.user_vectors(*probes(scorer.catalogue))


@pytest.fixture(scope="module")
def graph(bundle_path: Path) -> Path:
    return bundle_path / "user_encoder.onnx"


def test_the_exported_encoder_serves_and_gives_the_eager_vectors(
    bundle: Bundle, last_out: Dataset
) -> None:
    encoder, scorer = bundle.encoder, bundle.scorer
    assert isinstance(encoder, OnnxEncoder)
    histories = last_out.timelines(np.arange(last_out.users), Part.TEST)
    for domain in range(3):
        domains = np.full(len(histories), domain)
        eager = scorer.user_vectors(histories, domains)
        np.testing.assert_allclose(
            encoder.user_vectors(histories, domains), eager, rtol=0, atol=TOLERANCE
        )
        assert np.ptp(eager) > 0.1  # there is something to be off by
    assert largest_difference(encoder, expected(scorer)) < TOLERANCE


def test_a_batch_gives_the_scores_of_single_requests(bundle: Bundle, last_out: Dataset) -> None:
    histories = last_out.timelines(np.arange(40), Part.TRAIN)
    domains = np.arange(40) % 3
    together = bundle.encoder.user_vectors(histories, domains)
    for row in range(40):
        alone = bundle.encoder.user_vectors(
            histories.rows_between(row, row + 1), domains[row : row + 1]
        )
        np.testing.assert_allclose(alone[0], together[row], rtol=0, atol=1e-5)
    assert bundle.encoder.user_vectors(Histories.of([]), domains[:0]).shape == (0, 32)


def test_a_history_of_nothing_has_a_vector(bundle: Bundle) -> None:
    nothing = Histories.of([[]])
    encoded = (one.user_vectors(nothing, np.array([1])) for one in (bundle.encoder, bundle.scorer))
    np.testing.assert_allclose(*encoded, rtol=0, atol=TOLERANCE)


def opened(bundle: Bundle, file: Path, scorer: NetworkScorer) -> OnnxEncoder | None:
    return open_encoder(
        file,
        expected=expected(scorer),
        catalogue=bundle.catalogue,
        config=bundle.config,
        item_vectors=bundle.item_vectors,
    )


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_a_graph_of_another_model_is_not_used(
    factor: float, bundle: Bundle, graph: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(opened(bundle, graph, bundle.scorer), OnnxEncoder)
    state = {name: value * factor for name, value in bundle.scorer.state().items()}
    other = NetworkScorer.from_state(bundle.catalogue, bundle.scorer.config, state)
    assert opened(bundle, graph, other) is None
    assert "torch encodes users" in caplog.text and "is off by" in caplog.text


def test_a_graph_that_cannot_be_read_is_not_used(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph at all")
    assert opened(bundle, broken, bundle.scorer) is None
    assert "ONNX Runtime cannot use" in caplog.text


def test_a_bundle_whose_graph_is_off_is_served_by_torch(
    bundle_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What the graph must give is in the bundle, so that serving by it needs no torch."""
    copy = Path(shutil.copytree(bundle_path, tmp_path / "bundle"))
    check = np.load(copy / "encoder_check.npy")
    np.save(copy / "encoder_check.npy", check + 2e-4)
    off = dataclasses.replace(Bundle.load(bundle_path), path=copy)
    assert off.encoder is off.scorer
    assert "is off by 0.0002" in caplog.text


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    find = importlib.util.find_spec
    hidden = ("onnxruntime", "onnxscript")
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name in hidden else find(name)
    )
    yield


@pytest.mark.usefixtures("nothing_installed")
def test_without_the_runtime_torch_serves(
    bundle: Bundle, graph: Path, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert opened(bundle, graph, bundle.scorer) is None
    assert "torch encodes users: onnxruntime is not installed" in caplog.text
    exported = Bundle.load(export(run, out=tmp_path / "bundle"))
    assert "the bundle has no ONNX encoder, so torch serves it" in caplog.text
    assert not (tmp_path / "bundle" / "user_encoder.onnx").exists()
    asked = {"user_id": "u001", "domain": "videos"}
    by_torch, by_onnx = (Recommender(one).recommend(**asked) for one in (exported, bundle))
    assert [item.item_id for item in by_torch.items] == [item.item_id for item in by_onnx.items]


def test_a_graph_that_is_off_is_not_exported(
    run: Run,
    graph: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "crossfeed.model.onnx.graph.export_encoder", lambda scorer: graph.read_bytes()
    )
    monkeypatch.setattr("crossfeed.model.onnx.runtime.largest_difference", lambda *_: 2e-4)
    export(run, out=tmp_path / "bundle")
    assert "it would be off by 0.0002" in caplog.text
    assert not (tmp_path / "bundle" / "user_encoder.onnx").exists()


def test_an_existing_folder_is_refused_before_the_work(
    run: Run, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "dataset", lambda self: pytest.fail("work was begun"))
    with pytest.raises(OutputError, match="exists already"):
        export(run, out=bundle_path)


@pytest.mark.slow
@pytest.mark.parametrize("generator", ["linear", "attention"])
@pytest.mark.parametrize("network", ["shared-bottom", "mmoe", "ple", "star", "pepnet"])
def test_every_network_can_be_exported(network: str, generator: str) -> None:
    catalogue = Catalogue(("a", "b", "c"), np.array([0, 30, 60, 90]), np.array([30, 25, 30]))
    config = ModelConfig.model_validate(
        {"discriminator": network, "generator": generator, "width": 16, "layers": 2}
    )
    torch.manual_seed(0)
    scorer = NetworkScorer(catalogue, Players(catalogue, config))
    encoder = OnnxEncoder(
        export_encoder(scorer),
        catalogue=catalogue,
        config=config,
        item_vectors=scorer.item_vectors,
    )
    assert largest_difference(encoder, expected(scorer)) < TOLERANCE


def test_requests_at_once_are_answered_as_one_by_one(bundle: Bundle, tmp_path: Path) -> None:
    app = create_app(bundle, store=SqliteHistoryStore(tmp_path / "store.sqlite"))
    urls = [f"/v1/users/u{n:03}/recommendations?domain=videos&k=5" for n in range(40)]
    with TestClient(app) as client, ThreadPoolExecutor(20) as pool:
        alone = [client.get(url).json()["items"] for url in urls]
        together = [one["items"] for one in pool.map(lambda url: client.get(url).json(), urls)]
        assert client.get("/v1/model").json()["encoder"] == "onnxruntime"
    for expected, found in zip(alone, together, strict=True):
        assert [one["item_id"] for one in found] == [one["item_id"] for one in expected]
        scores = [one["score"] for one in expected]
        assert [one["score"] for one in found] == pytest.approx(scores, abs=1e-5)


def test_the_event_loop_is_free_while_users_are_encoded(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another route answers on the same loop while a forward pass is held up."""
    entered, gate, threads = threading.Event(), threading.Event(), []
    encode = OnnxEncoder.user_vectors

    def held(self: OnnxEncoder, histories: Histories, domains: Ints) -> Floats:
        threads.append(threading.current_thread().name)
        entered.set()
        assert gate.wait(30)
        return encode(self, histories, domains)

    app = create_app(bundle, store=SqliteHistoryStore(tmp_path / "store.sqlite"))
    with TestClient(app) as client, ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(OnnxEncoder, "user_vectors", held)
        asked = pool.submit(client.get, "/v1/users/u001/recommendations?domain=videos")
        assert entered.wait(30)
        assert client.get("/health/live").json() == {"status": "live"}
        assert not asked.done()
        gate.set()
        assert asked.result(30).status_code == 200
    assert threads and all(name.startswith("answers-") for name in threads)
