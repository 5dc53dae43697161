"""A bundle with known contents, made from a trained run once."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import tiny_config

from crossfeed.bundle import Bundle
from crossfeed.data.dataset import Dataset
from crossfeed.export import export
from crossfeed.run import Run
from crossfeed.training.trainer import train


@pytest.fixture(scope="session")
def run(last_out: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("run") / "run"
    return train(last_out, out=out, config=tiny_config(epochs=20, patience=20))


@pytest.fixture(scope="session")
def bundle_path(run: Run) -> Path:
    return export(run, out=run.path.parent / "bundle")


@pytest.fixture(scope="session")
def bundle(bundle_path: Path) -> Bundle:
    return Bundle.load(bundle_path)
