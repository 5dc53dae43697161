"""Pseudo-samples respect pool and history, and find the taste that is planted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from planted import tiny_config
from typer.testing import CliRunner

from crossfeed.cli import app
from crossfeed.config import load_config
from crossfeed.data.dataset import Dataset, Part
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.data.simulate.clicks import simulate
from crossfeed.data.simulate.truth import Truth
from crossfeed.errors import ConfigError, RunError, UnknownDomainError
from crossfeed.run import Run
from crossfeed.studies.expansion import _draw, generate
from crossfeed.training.loop.trainer import train

DOMAIN = "shopping"


@pytest.fixture(scope="module")
def run(new_in_domain: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("expansion") / "run"
    config = tiny_config(epochs=12, patience=12, average=0.5)
    model = config.model.model_copy(update={"mask_share": 0.9})  # learns from other domains
    return train(new_in_domain, out=out, config=config.model_copy(update={"model": model}))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Truth]:
    folder = tmp_path_factory.mktemp("simulated")
    log = simulate(folder / "log.parquet", users=120, items=120, domains=3, events=1_000)
    data = load_config(overrides=["data.split=new-in-domain", "data.min_domain_events=10"]).data
    dataset = prepare(log.log, out=folder / "dataset", config=data)
    config = tiny_config(epochs=1)
    return train(dataset, out=folder / "run", config=config), Truth.load(log.truth)


def rows(file: Path) -> dict[str, list[object]]:
    return pq.read_table(file).to_pydict()


@pytest.mark.parametrize("users", ["all", "new"])
def test_no_sample_repeats_a_click_and_all_are_of_the_pool(
    users: str, run: Run, new_in_domain: Dataset, tmp_path: Path
) -> None:
    found = generate(run, domain=DOMAIN, out=tmp_path / "s.parquet", users=users)  # type: ignore[arg-type]
    table = rows(tmp_path / "s.parquet")
    assert list(table) == ["user_id", "item_id", "domain", "confidence", "score"]
    samples = list(zip(table["user_id"], table["item_id"], strict=True))
    assert len(samples) == len(set(samples)) == found.samples and found.duplicates == 0
    assert set(table["domain"]) == {DOMAIN}
    number = new_in_domain.catalogue.domain_index(DOMAIN)
    pool = new_in_domain.catalogue.pool(number)
    items = new_in_domain.item_ids.to_pylist()
    assert {item for _, item in samples} <= set(items[pool])
    names = new_in_domain.user_ids.to_pylist()
    events = new_in_domain.events(Part.TRAIN)
    clicks = {
        (names[user], items[item])
        for user, item in zip(
            new_in_domain.users_of(events), new_in_domain.event_item[events], strict=True
        )
    }
    assert not clicks & set(samples)
    inside = events[new_in_domain.event_domain[events] == number]
    known = {names[user] for user in new_in_domain.users_of(inside)}
    assert bool(known & {user for user, _ in samples}) == (users == "all")


def test_samples_are_ordered_and_confidence_is_the_generators(run: Run, tmp_path: Path) -> None:
    generate(run, domain=DOMAIN, out=tmp_path / "s.parquet", per_user=4)
    table = rows(tmp_path / "s.parquet")
    users, confidence = np.array(table["user_id"]), np.array(table["confidence"], float)
    assert (np.sort(users) == users).all()
    for user in np.unique(users)[:20]:
        own = confidence[users == user]
        assert len(own) == 4 and (np.diff(own) <= 0).all() and 0 < own.sum() <= 1


def test_a_pool_that_is_smaller_gives_what_it_has(run: Run, tmp_path: Path) -> None:
    found = generate(run, domain=DOMAIN, out=tmp_path / "s.parquet", per_user=500)
    table = rows(tmp_path / "s.parquet")
    _, counts = np.unique(np.array(table["user_id"]), return_counts=True)
    assert found.coverage == 1.0 and set(counts.tolist()) <= set(range(14, 21))
    confidence, users = np.array(table["confidence"], float), np.array(table["user_id"])
    sums = [confidence[users == user].sum() for user in np.unique(users)[:10]]
    assert sums == pytest.approx([1.0] * 10, abs=1e-4)  # the whole pool that is left


def test_the_planted_taste_is_found_where_the_user_is_new(
    run: Run, new_in_domain: Dataset, tmp_path: Path
) -> None:
    found = generate(run, domain=DOMAIN, out=tmp_path / "s.parquet", users="new", per_user=5)
    table = rows(tmp_path / "s.parquet")
    taste = [int(str(user)[1:]) % 2 for user in table["user_id"]]
    half = [int(str(item)[1:]) // 10 for item in table["item_id"]]
    assert np.mean(np.equal(taste, half)) > 0.8
    assert found.held_out is not None and found.held_out.lift is not None
    assert found.held_out.lift > 1.3


def test_a_held_out_hit_is_counted_by_hand(
    run: Run, new_in_domain: Dataset, tmp_path: Path
) -> None:
    found = generate(run, domain=DOMAIN, out=tmp_path / "s.parquet")
    table = rows(tmp_path / "s.parquet")
    held_out = np.flatnonzero(new_in_domain.event_part != Part.TRAIN)
    names, items = new_in_domain.user_ids.to_pylist(), new_in_domain.item_ids.to_pylist()
    clicks = {
        (names[user], items[item])
        for user, item in zip(
            new_in_domain.users_of(held_out), new_in_domain.event_item[held_out], strict=True
        )
        if item >= 0
    }
    hits = sum(pair in clicks for pair in zip(table["user_id"], table["item_id"], strict=True))
    assert found.held_out is not None
    assert found.held_out.precision == pytest.approx(hits / found.samples) and hits > 0


def test_precision_against_the_truth_by_hand(simulated: tuple[Run, Truth], tmp_path: Path) -> None:
    """A sample is good if it is in the true top tenth of the pool, clicks of training apart."""
    run, truth = simulated
    dataset = run.dataset()
    domain = dataset.catalogue.domains[0]
    found = generate(run, domain=domain, out=tmp_path / "s.parquet", truth=truth)
    table = rows(tmp_path / "s.parquet")
    pool = dataset.catalogue.pool(0)
    items = dataset.item_ids.to_pylist()[pool]
    places = [truth.domain_items(domain).index(item) for item in items]
    train_events = dataset.events(Part.TRAIN)
    end = int(dataset.event_time[train_events].max()) // 1000
    names = dataset.user_ids.to_pylist()
    seen: dict[str, set[int]] = {}
    for user, item in zip(
        dataset.users_of(train_events), dataset.event_item[train_events], strict=True
    ):
        seen.setdefault(names[user], set()).add(int(item))
    good = 0
    for user, item in zip(table["user_id"], table["item_id"], strict=True):
        (chances,) = truth.probabilities([str(user)], domain, timestamps=[end])[:, places]
        left = [place for place in range(len(items)) if place not in seen[str(user)]]
        count = max(1, int(0.1 * len(items)))
        best = sorted(left, key=lambda place: -chances[place])[:count]
        good += items.index(item) in best
    assert found.truth is not None
    assert found.truth.precision == pytest.approx(good / found.samples)
    assert 0 < found.truth.popularity < 1


def test_the_same_seed_gives_the_same_samples(run: Run, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.parquet" for number in range(3)]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        generate(run, domain=DOMAIN, out=file, seed=seed)
    assert rows(files[0]) == rows(files[1]) != rows(files[2])


def test_draws_follow_the_weights() -> None:
    """One draw of each row: frequencies are the probabilities; what has none is never drawn."""
    weights = torch.tensor([0.5, 0.3, 0.2, 0.0])
    drawn = _draw(weights.log().expand(20_000, 4), 1, torch.Generator().manual_seed(0))
    shares = np.bincount(drawn.columns, minlength=4) / 20_000
    np.testing.assert_allclose(shares, weights, atol=0.015)
    both = _draw(weights.log().expand(10, 4), 4, torch.Generator().manual_seed(0))
    assert np.bincount(both.columns, minlength=4).tolist() == [10, 10, 10, 0]


def test_what_cannot_be_generated_is_refused(
    run: Run, simulated: tuple[Run, Truth], new_in_domain: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UnknownDomainError, match=r"'music'.*articles, shopping, videos"):
        generate(run, domain="music", out=tmp_path / "s.parquet")
    with pytest.raises(ConfigError, match="0 samples per user; it must be at least 1"):
        generate(run, domain=DOMAIN, out=tmp_path / "s.parquet", per_user=0)
    with pytest.raises(ConfigError, match=f"the truth is of another log: it lacks .*'{DOMAIN}'"):
        generate(run, domain=DOMAIN, out=tmp_path / "s.parquet", truth=simulated[1])
    plain = train(new_in_domain, out=tmp_path / "p", config=tiny_config(adversary=False, epochs=1))
    with pytest.raises(RunError, match="was trained without a generator\nhint: train with"):
        generate(plain, domain=DOMAIN, out=tmp_path / "s.parquet")
    assert not (tmp_path / "s.parquet").exists()


def test_the_command_prints_what_they_are_worth(run: Run, tmp_path: Path) -> None:
    words = ["generate", str(run.path), "--domain", DOMAIN, "--out", str(tmp_path / "s.parquet")]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert "held-out clicks" in shown.stdout and " x" in shown.stdout
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 1 and "exists" in again.stderr
    as_json = CliRunner().invoke(app, [*words, "--overwrite", "--json"])
    assert json.loads(as_json.stdout)["duplicates"] == 0
