"""The pinned model takes the place of the one in service while requests are answered."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
from bundles import best, variant
from httpx2 import Response
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message

from crossfeed.bundle import Bundle
from crossfeed.errors import BundleError, UnknownVersionError
from crossfeed.serving.engine.checking import check_answers, load_checked
from crossfeed.serving.engine.in_service import ModelInService
from crossfeed.serving.engine.versions import Versions, first_loadable
from crossfeed.serving.histories.guarded_store import GuardedStore
from crossfeed.serving.histories.history import HistoryStore
from crossfeed.serving.histories.sqlite.store import SqliteHistoryStore
from crossfeed.serving.http.app import create_app
from crossfeed.serving.operations.monitoring import REQUEST_LOG
from crossfeed.serving.recommend.recommender import Recommender

ASKED = "/v1/users/u001/recommendations?domain=videos&k=5"
ASKED_BY_NOBODY = "/v1/users/nobody/recommendations?domain=videos&k=5"


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
    made["truncated"] = variant(bundle, folder / "truncated", factor=0.25)
    file = made["truncated"] / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    made["tampered"] = Path(shutil.copytree(made["truncated"], folder / "tampered"))
    (made["tampered"] / "bundle.json").write_text('{"format_version": 1}')
    made["missing"] = folder / "missing"
    return made


@pytest.fixture
def folder(bundles: dict[str, Path], tmp_path: Path) -> Path:
    """Return a folder of versions with the first of the bundles in it."""
    made = tmp_path / "bundles"
    made.mkdir()
    add(made, bundles["one"])
    return made


def add(folder: Path, bundle: Path) -> None:
    """Put a bundle beside the others, as a copy would."""
    shutil.copytree(bundle, folder / f".{bundle.name}")
    (folder / f".{bundle.name}").rename(folder / bundle.name)


def version(path: Path) -> str:
    return Bundle.stated_version(path)


@pytest.fixture
def store() -> Iterator[HistoryStore]:
    opened = SqliteHistoryStore(None)
    yield opened
    opened.close()


@pytest.fixture
def client(folder: Path, store: HistoryStore) -> Iterator[TestClient]:
    bundle = Bundle.load(folder / "one")
    with TestClient(create_app(bundle, store=store, versions=Versions(folder))) as client:
        yield client


def pin(client: TestClient, wanted: str) -> Response:
    return client.post("/v1/model/pin", json={"version": wanted})


def test_a_pin_puts_another_model_into_service_and_back(
    client: TestClient, folder: Path, bundles: dict[str, Path]
) -> None:
    one, other = (version(bundles[name]) for name in ("one", "other"))
    assert client.get("/v1/model").json()["pinned_version"] == one  # the first one that is served
    add(folder, bundles["other"])
    assert client.get(ASKED).json()["model_version"] == one
    assert set(client.get("/v1/model").json()["versions"]) == {one, other}
    assert pin(client, other).json() == {"pinned_version": other, "model_version": other}
    answer = client.get(ASKED).json()
    assert answer["model_version"] == other
    assert [item["item_id"] for item in answer["items"]] == best(bundles["other"])
    assert best(bundles["other"]) != best(bundles["one"])
    assert client.get("/v1/model").json()["model_version"] == other
    ready = client.get("/health/ready").json()
    assert (ready["model_version"], ready["pinned_version"]) == (other, other)
    assert (ready["status"], ready["problem"]) == ("ready", None)
    page = client.get("/metrics").text
    assert f'crossfeed_model{{version="{other}"}} 1.0' in page
    assert f'crossfeed_model{{version="{one}"}} 0.0' in page
    assert 'crossfeed_model_switches_total{outcome="changed"} 1.0' in page
    assert pin(client, "one").json() == {"pinned_version": one, "model_version": one}
    assert [item["item_id"] for item in client.get(ASKED).json()["items"]] == best(bundles["one"])


REFUSED = [
    ("truncated", 409, "weights.safetensors has"),
    ("tampered", 409, "bundle.json cannot be read"),
    ("infinite", 409, "failed its check: 'articles' has no item with a finite score"),
    ("integers", 409, "has user_id_type int64, the histories in service have string"),
    ("missing", 404, ""),
]


@pytest.mark.parametrize(("name", "status", "logged"), REFUSED)
def test_a_version_that_is_not_sound_cannot_be_pinned(
    name: str,
    status: int,
    logged: str,
    client: TestClient,
    store: HistoryStore,
    folder: Path,
    bundles: dict[str, Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    before, pins = client.get(ASKED).json(), store.pins(limit=10)
    if name != "missing":
        add(folder, bundles[name])
    with caplog.at_level(logging.INFO, logger=REQUEST_LOG):
        refused = pin(client, name)
    assert refused.status_code == status
    assert refused.headers["content-type"] == "application/problem+json"
    assert before["model_version"] in refused.json()["detail"]  # among those that there are
    assert str(folder) not in refused.text
    assert logged in caplog.text
    after = client.get(ASKED).json()
    assert (after["items"], after["model_version"]) == (before["items"], before["model_version"])
    assert store.pins(limit=10) == pins


class Watched:
    """A model in service with a clock of its own, and what it told."""

    def __init__(self, folder: Path, store: HistoryStore) -> None:
        self.now = 0.0
        self.told: list[str] = []
        self.guarded = GuardedStore(
            lambda: store, took=lambda *_: None, failed=lambda *_: None, clock=lambda: self.now
        )
        self.model = ModelInService(
            Bundle.load(folder / "one"),
            store=self.guarded,
            versions=Versions(folder),
            changed=lambda version: self.told.append(f"changed {version}"),
            failed=lambda version, error: self.told.append(f"failed {version}"),
            settled=lambda: self.told.append("settled"),
            clock=lambda: self.now,
        )


@pytest.mark.parametrize("name", [name for name, *_ in REFUSED])
def test_a_pinned_version_that_cannot_be_served_leaves_the_old_one_and_is_tried_again(
    name: str, folder: Path, store: HistoryStore, bundles: dict[str, Path]
) -> None:
    """Somebody else pinned it: a replica with another folder, or before it was damaged."""
    watched = Watched(folder, store)
    watched.model.follow()
    one = version(bundles["one"])
    assert watched.model.pinned == one and watched.told == []
    if name != "missing":
        add(folder, bundles[name])
    wanted = name if name in ("missing", "tampered") else version(bundles[name])
    store.pin(wanted)
    for moment in (0.0, 1.9, 2.0, 5.9, 6.0):  # it is tried at 0, then after 2 s, then after 4 s
        watched.now = moment
        watched.model.follow()
    assert watched.told == [f"failed {wanted}"] * 3
    assert watched.model.bundle.version == one
    assert watched.model.pinned == wanted
    assert watched.model.problem is not None and wanted in watched.model.problem
    assert str(folder) not in watched.model.problem
    add(folder, bundles["other"])
    store.pin(version(bundles["other"]))
    watched.model.follow()  # another pin is tried at once
    assert watched.told[3:] == [f"changed {version(bundles['other'])}", "settled"]
    assert watched.model.problem is None


def test_what_comes_later_is_loaded_when_it_is_there(
    folder: Path, store: HistoryStore, bundles: dict[str, Path]
) -> None:
    """The pin is faster than the copy of the bundle."""
    watched, other = Watched(folder, store), version(bundles["other"])
    store.pin(other)
    watched.model.follow()
    assert watched.model.problem == f"the pinned version {other} is not in the folder of bundles"
    add(folder, bundles["other"])
    watched.now = 2.0
    watched.model.follow()
    assert watched.told == [f"failed {other}", f"changed {other}", "settled"]


def test_a_store_that_is_down_changes_nothing(folder: Path, bundles: dict[str, Path]) -> None:
    store = SqliteHistoryStore(None)
    watched = Watched(folder, store)
    store.close()
    watched.model.follow()
    assert (watched.model.pinned, watched.model.problem, watched.told) == (None, None, [])


def test_a_single_bundle_is_served_without_a_pin_and_follows_one(
    bundles: dict[str, Path], store: HistoryStore, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(bundles["one"], tmp_path / "bundle"))
    guarded = GuardedStore(lambda: store, took=lambda *_: None, failed=lambda *_: None)
    model = ModelInService(Bundle.load(folder), store=guarded)
    model.follow()
    assert (model.pinned, list(store.pins(limit=1))) == (None, [])
    folder.rename(tmp_path / "old")
    shutil.copytree(bundles["other"], folder)
    model.follow()
    assert model.bundle.version == version(bundles["one"])  # what is copied is not deployed
    store.pin(version(bundles["other"]))
    model.follow()
    assert model.bundle.version == version(bundles["other"])


def test_a_folder_that_is_replaced_while_it_is_loaded_is_refused(
    folder: Path, store: HistoryStore, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    add(folder, bundles["other"])
    watched, load = Watched(folder, store), Bundle.load

    def replaced_meanwhile(path: Path) -> Bundle:
        loaded = load(path)
        shutil.rmtree(path)
        shutil.copytree(bundles["infinite"], path)
        return loaded

    monkeypatch.setattr(Bundle, "load", replaced_meanwhile)
    store.pin(version(bundles["other"]))
    watched.model.follow()
    assert watched.told == [f"failed {version(bundles['other'])}"]
    assert watched.model.bundle.version == version(bundles["one"])


def test_the_first_loadable_version_is_served(
    folder: Path, bundles: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("other", "infinite", "truncated"):
        add(folder, bundles[name])
    one, other = (version(bundles[name]) for name in ("one", "other"))
    load = partial(load_checked, fallbacks=None)
    wanted = [version(bundles["infinite"]), "truncated", "gone", other, one]
    assert first_loadable(Versions(folder), wanted, others=False, load=load).version == other
    with pytest.raises(UnknownVersionError, match=f"'gone' is not here; there are: .*{other}"):
        first_loadable(Versions(folder), ["gone"], others=False, load=load)
    for time, name in enumerate(("infinite", "one", "other", "truncated")):
        os.utime(folder / name / "bundle.json", (time, time))
    newest = first_loadable(Versions(folder), ["gone"], others=True, load=load)
    assert newest.version == other  # truncated is newer, and damaged
    with pytest.raises(BundleError, match=r"neither a bundle nor a folder of bundles\nhint: make"):
        first_loadable(Versions(tmp_path / "none"), [], others=True, load=load)


def test_what_was_loaded_needs_its_folder_no_more(bundle: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
    served = Bundle.load(copy)
    check_answers(served, fallbacks=None)
    loaded = Recommender.load(copy)
    shutil.rmtree(copy)
    asked = {"user_id": "u001", "domain": "videos", "sources": ["pool", "generator"]}
    expected = Recommender(bundle).recommend(**asked)
    assert loaded.recommend(**asked) == Recommender(served).recommend(**asked) == expected


async def ask(app: ASGIApp, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """Return status and body of an application's answer."""
    url, sent = urlsplit(path), []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": method, "path": url.path, "headers": headers}
    await app({**scope, "query_string": url.query.encode()}, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


def test_pins_under_load_lose_and_mix_no_answer(
    folder: Path, bundles: dict[str, Path], store: HistoryStore
) -> None:
    for name in ("other", "truncated", "infinite"):
        add(folder, bundles[name])
    app = create_app(Bundle.load(folder / "one"), store=store, versions=Versions(folder))
    names = ("other", "truncated", "one", "infinite") * 2
    found: list[tuple[int, bytes]] = []
    pinned: Counter[int] = Counter()

    async def load(done: asyncio.Event) -> None:
        for path in itertools.cycle([ASKED, *[ASKED_BY_NOBODY] * 9]):
            found.append(await ask(app, "GET", path))
            if done.is_set() and len(found) >= 2_000:
                return

    async def pin(done: asyncio.Event) -> None:
        # Answers, not seconds, say when the next one comes: it is the same on any machine.
        for number, name in enumerate(names):
            while len(found) < number * 2_000 // len(names):
                await asyncio.sleep(0.001)
            body = json.dumps({"version": name}).encode()
            pinned[(await ask(app, "POST", "/v1/model/pin", body))[0]] += 1
        done.set()

    async def run() -> None:
        done = asyncio.Event()
        async with app.router.lifespan_context(app), asyncio.TaskGroup() as tasks:
            tasks.create_task(pin(done))
            for _ in range(5):
                tasks.create_task(load(done))

    asyncio.run(run())
    expected = {
        (Bundle.load(bundles[name]).version, user): best(bundles[name], user)
        for name in ("one", "other")
        for user in ("u001", "nobody")
    }
    assert len(found) >= 2_000
    assert {status for status, _ in found} == {200}
    answered = set()
    for answer in (json.loads(body) for _, body in found):
        user = "nobody" if answer["fallback"] else "u001"
        answered.add((answer["model_version"], user))
        items = [item["item_id"] for item in answer["items"]]
        assert items == expected[answer["model_version"], user]
    assert answered == set(expected)
    assert pinned == {200: 4, 409: 4}
