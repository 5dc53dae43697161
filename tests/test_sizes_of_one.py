"""A log with one domain, one item in a domain, one user: through the whole line to an answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from planted import tiny_config

import crossfeed
from crossfeed.config import Config, DataConfig, parse_config
from crossfeed.export import export
from crossfeed.model.onnx.runtime import OnnxEncoder
from crossfeed.serving.histories.url import open_store
from crossfeed.serving.http.app import create_app

KEEP = DataConfig(min_user_events=1, min_item_events=1, min_domain_events=1, repeats="keep")


def log(*, users: int = 20, domains: int = 1, items: int = 12, only: int | None = None) -> object:
    """Return 400 random clicks; `only` is how many items the first domain has."""
    draws = np.random.default_rng(0)
    rows = []
    for time in range(400):
        domain = int(draws.integers(domains))
        count = only if only is not None and domain == 0 else items
        item = f"{'abcdef'[domain]}{draws.integers(count)}"
        rows.append((f"u{draws.integers(users)}", item, f"d{domain}", 1_700_000_000 + time * 600))
    return pd.DataFrame(rows, columns=["user_id", "item_id", "domain", "timestamp"])


def config(**model: object) -> Config:
    base = tiny_config(epochs=1)
    tree = base.model_dump(exclude_unset=True)
    return parse_config({**tree, "model": {**tree["model"], **model}})


MODELS: list[dict[str, object]] = [
    {"discriminator": "translation", "generator": "attention"},
    {"discriminator": "shared-bottom", "fuse": "none"},
    {"discriminator": "mmoe", "fuse": "residual"},
    {"discriminator": "ple", "demand": False, "id_bias": False},
    {"discriminator": "star"},
    {"discriminator": "pepnet"},
]
SHAPES = {
    "one domain": {},
    "one item in the one domain": {"items": 1},
    "one item in a domain": {"domains": 2, "only": 1},
    "one item in each domain": {"domains": 3, "items": 1},
    "one user": {"users": 1, "domains": 2},
    "one user in one domain": {"users": 1},
}


def answers(folder: Path, table: object, settings: Config) -> None:
    """Prepare, train, evaluate, export and serve a log; the parts must agree at the end."""
    dataset = crossfeed.prepare(table, out=folder / "data", config=KEEP)  # type: ignore[arg-type]
    run = crossfeed.train(dataset, out=folder / "run", config=settings)
    results = crossfeed.evaluate(run, dataset, baselines=["popularity", "item-knn"])
    assert np.isfinite(list(results.micro.values())).all()
    run.write_results(results)
    bundle = crossfeed.Bundle.load(export(run, out=folder / "bundle"))
    assert isinstance(bundle.encoder, OnnxEncoder)
    domains = np.arange(len(dataset.catalogue.domains))
    histories = dataset.timelines(np.zeros(len(domains), np.int64), crossfeed.Part.TEST)
    for encoder in (bundle.encoder, bundle.scorer):
        np.testing.assert_allclose(
            encoder.user_vectors(histories, domains),
            run.scorer().user_vectors(histories, domains),
            atol=1e-4,
        )
    with TestClient(create_app(bundle, store=open_store("sqlite://"))) as client:
        for domain in dataset.catalogue.domains:
            url = "/v1/users/nobody/recommendations"
            answer = client.get(url, params={"domain": domain, "k": 3})
            assert answer.status_code == 200, answer.text
            assert answer.json()["items"]
            found = client.get("/v1/users/u0/recommendations", params={"domain": domain})
            assert found.status_code == 200, found.text


@pytest.mark.parametrize("shape", SHAPES)
def test_every_size_of_one_is_carried_to_the_answer(shape: str, tmp_path: Path) -> None:
    answers(tmp_path, log(**SHAPES[shape]), config())  # type: ignore[arg-type]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: " ".join(map(str, model.values())))
def test_every_kind_of_model_serves_one_domain(model: dict[str, object], tmp_path: Path) -> None:
    answers(tmp_path, log(), config(**model))
