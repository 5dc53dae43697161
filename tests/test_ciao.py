"""The figures that docs/ciao.md states, on the real data; about a quarter of an hour."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from crossfeed.bundle import Bundle
from crossfeed.config import load_config
from crossfeed.data.dataset import Part
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.export import export
from crossfeed.training.loop.trainer import train

DATA = os.environ.get("CROSSFEED_DATA")
SETTINGS = Path(__file__).parents[1] / "examples" / "ciao.toml"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not DATA, reason="CROSSFEED_DATA is not set: no real data at hand")
def test_the_default_settings_reach_the_stated_quality(tmp_path: Path) -> None:
    config = load_config(SETTINGS)
    log = Path(str(DATA)) / "ciao" / "ratings.parquet"
    dataset = prepare(log, out=tmp_path / "dataset", config=config.data)
    run = train(dataset, out=tmp_path / "run", config=config)
    results = evaluate(run, dataset, baselines=["popularity", "item-knn"])
    assert results.micro["ndcg@10"] >= 0.12
    assert results.macro["ndcg@10"] >= 0.15
    for baseline in results.baselines.values():
        assert results.micro["ndcg@10"] > baseline.micro["ndcg@10"]
        assert results.macro["ndcg@10"] > baseline.macro["ndcg@10"]
    bundle = Bundle.load(export(run, out=tmp_path / "bundle"))
    histories = dataset.histories(dataset.events(Part.TEST)[:200], Part.TEST)
    for domain in range(len(dataset.catalogue.domains)):
        served = bundle.scorer.score(histories, domain)
        np.testing.assert_allclose(served, run.scorer().score(histories, domain), atol=1e-5)
