"""A bundle with known contents, made from a trained run once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from planted import tiny_config
from redis_server import RedisServer

from crossfeed.bundle import Bundle
from crossfeed.data.dataset import Dataset
from crossfeed.export import export
from crossfeed.run import Run
from crossfeed.serving.histories.history import HistoryStore
from crossfeed.serving.histories.url import open_store
from crossfeed.training.loop.trainer import train


@pytest.fixture(scope="session")
def run(last_out: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("run") / "run"
    config = tiny_config(epochs=20, patience=20)
    model = config.model.model_copy(update={"mask_share": 0.9})  # learns from other domains
    return train(last_out, out=out, config=config.model_copy(update={"model": model}))


@pytest.fixture(scope="session")
def bundle_path(run: Run) -> Path:
    return export(run, out=run.path.parent / "bundle")


@pytest.fixture(scope="session")
def bundle(bundle_path: Path) -> Bundle:
    return Bundle.load(bundle_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "histories.sqlite"


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(params=["file", "memory", "redis"])
def store_url(request: pytest.FixtureRequest, file: Path) -> str:
    """Return the URL of an empty store of each kind: what holds of one holds of all."""
    if request.param != "redis":
        return f"sqlite:///{file}" if request.param == "file" else "sqlite://"
    server: RedisServer = request.getfixturevalue("redis_server")
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    return server.url


@pytest.fixture
def store(store_url: str) -> Iterator[HistoryStore]:
    opened = open_store(store_url)
    yield opened
    opened.close()
