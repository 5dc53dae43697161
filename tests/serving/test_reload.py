"""Another model takes the place of the one in service while requests are answered."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message

from crossfeed.bundle import Bundle, BundleContents, write_bundle
from crossfeed.model.network_scorer import NetworkScorer
from crossfeed.serving.engine.reload import check_answers
from crossfeed.serving.histories.sqlite.store import SqliteHistoryStore
from crossfeed.serving.http.app import create_app
from crossfeed.serving.operations.monitoring import REQUEST_LOG
from crossfeed.serving.recommend.recommender import Recommender

ASKED = "/v1/users/u001/recommendations?domain=videos&k=5"
ASKED_BY_NOBODY = "/v1/users/nobody/recommendations?domain=videos&k=5"


def variant(bundle: Bundle, out: Path, *, factor: float = 1.0, **changed: Any) -> Path:
    """Write a bundle with other weights; what is given replaces the rest."""
    state = {name: value * factor for name, value in bundle.scorer.state().items()}
    contents = {
        "scorer": NetworkScorer.from_state(bundle.catalogue, bundle.scorer.config, state),
        "item_ids": pa.chunked_array([bundle.item_ids]),
        "user_id_type": bundle.user_id_type,
        "clicks": bundle.clicks,
        "recent_clicks": bundle.recent_clicks,
        "histories": bundle.histories(),
        "card": bundle.card,
    }
    return write_bundle(out, BundleContents(**{**contents, **changed}))


@pytest.fixture(scope="module")
def bundles(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return one bundle as it is, one that answers otherwise, and those that must be refused."""
    folder = tmp_path_factory.mktemp("bundles")
    made = {
        "one": variant(bundle, folder / "one"),
        "other": variant(bundle, folder / "other", factor=-0.5, clicks=bundle.clicks[::-1]),
        "infinite": variant(bundle, folder / "infinite", factor=float("nan")),
        "integers": variant(bundle, folder / "integers", user_id_type=pa.int64(), histories=None),
    }
    made["truncated"] = Path(shutil.copytree(made["other"], folder / "truncated"))
    file = made["truncated"] / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    made["tampered"] = Path(shutil.copytree(made["other"], folder / "tampered"))
    (made["tampered"] / "bundle.json").write_text('{"format_version": 1}')
    made["missing"] = folder / "missing"
    return made


@pytest.fixture
def link(bundles: dict[str, Path], tmp_path: Path) -> Path:
    """Return the folder that the service is told of: a link, set to one bundle after another."""
    made = tmp_path / "current"
    made.symlink_to(bundles["one"])
    return made


def point(link: Path, target: Path) -> None:
    beside = link.with_name("next")
    beside.symlink_to(target)
    beside.rename(link)


@pytest.fixture
def client(link: Path, tmp_path: Path) -> Iterator[TestClient]:
    store = SqliteHistoryStore(tmp_path / "store.sqlite")
    with TestClient(create_app(Bundle.load(link), store=store)) as client:
        yield client


def best(bundle: Path, user: str = "u001") -> list[Any]:
    found = Recommender.load(bundle).recommend(user_id=user, domain="videos", k=5)
    return [item.item_id for item in found.items]


def test_a_reload_puts_the_new_model_into_service(
    client: TestClient, link: Path, bundles: dict[str, Path]
) -> None:
    one, other = (Bundle.load(bundles[name]).version for name in ("one", "other"))
    unchanged = {"model_version": one, "changed": False}
    assert client.post("/v1/model/reload").json() == unchanged
    point(link, bundles["other"])
    assert client.get(ASKED).json()["model_version"] == one
    assert client.post("/v1/model/reload").json() == {"model_version": other, "changed": True}
    answer = client.get(ASKED).json()
    assert answer["model_version"] == other
    assert [item["item_id"] for item in answer["items"]] == best(bundles["other"])
    assert best(bundles["other"]) != best(bundles["one"])
    assert client.get("/v1/model").json()["model_version"] == other
    assert client.get("/health/ready").json()["model_version"] == other
    page = client.get("/metrics").text
    assert f'crossfeed_model{{version="{other}"}} 1.0' in page
    assert one not in page
    assert 'crossfeed_reloads_total{outcome="changed"} 1.0' in page


@pytest.mark.parametrize(
    ("name", "logged"),
    [
        ("truncated", "weights.safetensors has"),
        ("tampered", "bundle.json cannot be read"),
        ("missing", "is not a bundle"),
        ("infinite", "failed its check: 'articles' has no item with a finite score"),
        ("integers", "has user_id_type int64, the histories in service have string"),
    ],
)
def test_a_bundle_that_is_not_sound_is_refused_and_the_old_one_stays(
    name: str,
    logged: str,
    client: TestClient,
    link: Path,
    bundles: dict[str, Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = client.get(ASKED).json()
    point(link, bundles[name])
    with caplog.at_level(logging.INFO, logger=REQUEST_LOG):
        refused = client.post("/v1/model/reload")
    assert refused.status_code == 409
    assert refused.headers["content-type"] == "application/problem+json"
    assert before["model_version"] in refused.json()["detail"]
    assert str(link) not in refused.text
    assert logged in caplog.text
    after = client.get(ASKED).json()
    assert (after["items"], after["model_version"]) == (before["items"], before["model_version"])
    assert 'crossfeed_reloads_total{outcome="refused"} 1.0' in client.get("/metrics").text


def test_a_folder_that_is_replaced_during_the_reload_is_refused(
    client: TestClient, link: Path, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    point(link, bundles["other"])
    load = Bundle.load

    def replaced_meanwhile(path: Path) -> Bundle:
        loaded = load(path)
        _ = loaded.scorer
        point(link, bundles["one"])
        return loaded

    monkeypatch.setattr(Bundle, "load", replaced_meanwhile)
    assert client.post("/v1/model/reload").status_code == 409
    assert client.get(ASKED).json()["model_version"] == load(bundles["one"]).version


def test_what_was_loaded_needs_its_folder_no_more(bundle: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
    served = Bundle.load(copy)
    check_answers(served, fallbacks=None)
    loaded = Recommender.load(copy)
    shutil.rmtree(copy)
    asked = {"user_id": "u001", "domain": "videos", "sources": ["pool", "generator"]}
    expected = Recommender(bundle).recommend(**asked)
    assert loaded.recommend(**asked) == Recommender(served).recommend(**asked) == expected


def test_whatever_a_new_bundle_breaks_the_old_one_stays(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(path: Path) -> Bundle:
        raise KeyError("planted")

    before = client.get(ASKED).json()["items"]
    monkeypatch.setattr(Bundle, "load", fail)
    with caplog.at_level(logging.INFO, logger=REQUEST_LOG):
        assert client.post("/v1/model/reload").status_code == 409
    assert "failed its check: KeyError while it was loaded" in caplog.text
    assert client.get(ASKED).json()["items"] == before


async def ask(app: ASGIApp, method: str, path: str) -> tuple[int, bytes]:
    """Return status and body of an application's answer."""
    url, sent = urlsplit(path), []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": url.path, "headers": []}
    await app({**scope, "query_string": url.query.encode()}, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


def test_reloads_under_load_lose_and_mix_no_answer_of_5_000(
    link: Path, bundles: dict[str, Path], tmp_path: Path
) -> None:
    app = create_app(Bundle.load(link), store=SqliteHistoryStore(tmp_path / "store.sqlite"))
    names = ("other", "truncated", "one", "infinite") * 2
    found: list[tuple[int, bytes]] = []
    reloads: Counter[int] = Counter()

    async def load(done: asyncio.Event) -> None:
        for path in itertools.cycle([ASKED, *[ASKED_BY_NOBODY] * 9]):
            found.append(await ask(app, "GET", path))
            if done.is_set() and len(found) >= 5_000:
                return

    async def reload(done: asyncio.Event) -> None:
        # Answers, not seconds, say when the next one comes: it is the same on any machine.
        for number, name in enumerate(names):
            while len(found) < number * 5_000 // len(names):
                await asyncio.sleep(0.001)
            point(link, bundles[name])
            reloads[(await ask(app, "POST", "/v1/model/reload"))[0]] += 1
        done.set()

    async def run() -> None:
        done = asyncio.Event()
        async with app.router.lifespan_context(app), asyncio.TaskGroup() as tasks:
            tasks.create_task(reload(done))
            for _ in range(5):
                tasks.create_task(load(done))

    asyncio.run(run())
    expected = {
        (Bundle.load(bundles[name]).version, user): best(bundles[name], user)
        for name in ("one", "other")
        for user in ("u001", "nobody")
    }
    assert len(found) >= 5_000
    assert {status for status, _ in found} == {200}
    answered = set()
    for answer in (json.loads(body) for _, body in found):
        user = "nobody" if answer["fallback"] else "u001"
        answered.add((answer["model_version"], user))
        items = [item["item_id"] for item in answer["items"]]
        assert items == expected[answer["model_version"], user]
    assert answered == set(expected)
    assert reloads == {200: 4, 409: 4}
