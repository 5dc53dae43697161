"""Tables with fewer rows than items: what a vector is, and that it is learned and served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from planted import tiny_config

from crossfeed.bundle import Bundle
from crossfeed.config import Config, ModelConfig, parse_config
from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import ConfigError
from crossfeed.evaluation.baselines import Popularity
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.export import export
from crossfeed.model.items.hashed_table import HashedTable
from crossfeed.model.items.layer import ItemLayer
from crossfeed.training.loop.trainer import train


def hashed(config: Config, rows: int) -> Config:
    model = config.model.model_copy(update={"table_rows": rows})
    return config.model_copy(update={"model": model})


def test_an_item_is_the_sum_of_the_two_rows_that_the_functions_name() -> None:
    table = HashedTable(items=50, rows=7, width=4)
    # (1103515245 * 3 + 12345) mod (2^31 - 1) mod 7 and (1664525 * 3 + 1013904223) mod ... mod 7.
    first, second = 1163074433 % 7, 1018897798 % 7
    expected = table.weight[first] + table.weight[second]
    torch.testing.assert_close(table(torch.tensor([[3]]))[0, 0], expected)
    torch.testing.assert_close(table.whole(), table(torch.arange(50)))
    assert table.weight.shape == (7, 4)


def test_rows_are_named_evenly_and_pairs_are_hardly_ever_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items, rows = 100_000, 10_000
    table = HashedTable(items=items, rows=rows, width=1)
    named: list[torch.Tensor] = []
    look_up = torch.nn.Embedding.forward

    def noted(self: torch.nn.Embedding, places: torch.Tensor) -> torch.Tensor:
        named.append(places)
        return look_up(self, places)

    monkeypatch.setattr(torch.nn.Embedding, "forward", noted)
    table.whole()
    first, second = (one.numpy() for one in named)
    assert (first != second).mean() > 0.999
    counts = np.bincount(np.concatenate([first, second]), minlength=rows)
    assert counts.min() > 0 and counts.max() < 3 * counts.mean()
    pairs = np.sort(np.stack([first, second]), axis=0)
    assert len(np.unique(pairs, axis=1).T) > 0.99 * items


def test_each_item_has_a_row_of_its_own_unless_there_are_more() -> None:
    for rows, kind in ((0, torch.nn.Embedding), (10, torch.nn.Embedding), (9, HashedTable)):
        layer = ItemLayer(rows=10, config=ModelConfig(width=4, table_rows=rows))
        assert type(layer.vectors) is kind
        assert layer.item_vectors().shape == (10, 4)
        torch.nn.init.normal_(layer.biases)
        pool = slice(2, 6)
        ((vectors, biases),) = layer.pools([pool])
        torch.testing.assert_close(vectors, layer.item_vectors()[pool])
        torch.testing.assert_close(biases, layer.biases[pool])


@pytest.mark.parametrize(
    "settings", [{}, {"dense_items": 0, "pool_items": 8}], ids=["whole", "rows"]
)
def test_hashed_items_are_learned_and_served(
    settings: dict[str, int], last_out: Dataset, tmp_path: Path
) -> None:
    rows = 40
    assert rows < last_out.catalogue.items
    config = hashed(tiny_config(epochs=8, patience=8, **settings), rows)
    run = train(last_out, out=tmp_path / "run", config=config)
    scorer = run.scorer()
    assert scorer.state()["discriminator.scoring_layer.vectors.weight"].shape == (rows, 16)
    popularity = evaluate(Popularity(last_out), last_out, part=Part.VALIDATION)
    learned = evaluate(scorer, last_out, part=Part.VALIDATION)
    assert learned.micro["ndcg@10"] > 1.3 * popularity.micro["ndcg@10"]
    bundle = Bundle.load(export(run, out=tmp_path / "bundle", onnx=False))
    histories = last_out.histories(last_out.events(Part.TEST)[:20], Part.TEST)
    moment = last_out.end(Part.TEST)
    for domain in range(3):
        np.testing.assert_allclose(
            bundle.scorer.score(histories, domain, moment),
            scorer.score(histories, domain, moment),
            atol=1e-5,
        )


def test_a_table_is_hashed_or_divided() -> None:
    with pytest.raises(ConfigError, match=r"table_rows=100 does not go with train\.table_sharding"):
        parse_config({"model": {"table_rows": 100}, "train": {"table_sharding": "row"}})
