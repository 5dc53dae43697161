"""A simulated log is what its truth says, and can be learnt from."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from crossfeed.config import DataConfig
from crossfeed.data.dataset import Dataset, Part
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.data.simulate.clicks import Simulation, simulate
from crossfeed.data.simulate.truth import START_SECONDS, YEAR_SECONDS, Truth
from crossfeed.errors import ConfigError, DatasetError, OutputError
from crossfeed.files import file_hash

SIZES = {"users": 1500, "items": 900, "domains": 4, "events": 60_000}
SMALL = {"users": 200, "items": 120, "domains": 3, "events": 2_000}


@pytest.fixture(scope="module")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    return simulate(tmp_path_factory.mktemp("simulated") / "log.parquet", **SIZES)


@pytest.fixture(scope="module")
def log(simulation: Simulation) -> pd.DataFrame:
    return pq.read_table(simulation.log).to_pandas()


@pytest.fixture(scope="module")
def truth(simulation: Simulation) -> Truth:
    return Truth.load(simulation.truth)


@pytest.fixture(scope="module")
def new_users(simulation: Simulation) -> Dataset:
    out = simulation.log.with_name("new-in-domain")
    return prepare(simulation.log, out=out, config=DataConfig(split="new-in-domain"))


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    first, again = (simulate(tmp_path / f"{name}.parquet", **SMALL) for name in ("a", "b"))
    other = simulate(tmp_path / "c.parquet", **SMALL, seed=1)
    assert file_hash(first.log) == file_hash(again.log) != file_hash(other.log)
    assert file_hash(first.truth) == file_hash(again.truth) != file_hash(other.truth)


def test_the_log_has_the_size_asked_for_and_no_repeats(
    simulation: Simulation, log: pd.DataFrame
) -> None:
    assert simulation.events == len(log)
    assert abs(len(log) - SIZES["events"]) < 0.05 * SIZES["events"]
    assert list(log.columns) == ["user_id", "item_id", "domain", "timestamp"]
    assert not log.duplicated(["user_id", "domain", "item_id"]).any()
    assert log["timestamp"].is_monotonic_increasing
    assert log["timestamp"].between(START_SECONDS, START_SECONDS + YEAR_SECONDS - 1).all()
    assert log["user_id"].nunique() > 0.99 * SIZES["users"]


def test_domains_are_dense_and_sparse_and_users_miss_some(log: pd.DataFrame) -> None:
    clicks = log.groupby("domain").size().sort_values()
    assert clicks.iloc[-1] > 10 * clicks.iloc[0]
    per_user = log.groupby("user_id")["domain"].nunique()
    assert 0.2 < (per_user < SIZES["domains"]).mean() < 0.98
    assert (per_user > 1).mean() > 0.8


def test_popularity_has_a_heavy_head(log: pd.DataFrame) -> None:
    for _, clicks in log.groupby("domain")["item_id"]:
        counts = clicks.value_counts().to_numpy()
        assert counts[: len(counts) // 10].sum() > 0.25 * counts.sum()


def test_items_belong_to_the_domain_that_the_truth_says(log: pd.DataFrame, truth: Truth) -> None:
    for domain, items in log.groupby("domain")["item_id"]:
        assert set(items) <= set(truth.domain_items(str(domain)))


def test_by_default_no_domain_is_dropped(simulation: Simulation, tmp_path: Path) -> None:
    dataset = prepare(simulation.log, out=tmp_path / "temporal")
    assert len(dataset.catalogue.domains) == SIZES["domains"]
    assert dataset.manifest["untrained"]["small domain"] == 0


def test_first_clicks_follow_the_stated_probabilities(log: pd.DataFrame, truth: Truth) -> None:
    """The first draw of a user in a domain is not changed by what was drawn before."""
    first = log.drop_duplicates(["user_id", "domain"])
    for domain, rows in first.groupby("domain"):
        p = truth.probabilities(
            rows["user_id"].tolist(), str(domain), timestamps=rows["timestamp"].to_numpy()
        )
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
        column = {item: number for number, item in enumerate(truth.domain_items(str(domain)))}
        clicked = p[np.arange(len(rows)), rows["item_id"].map(column)]
        # The mean of p(click) is the mean of sum p^2, within four standard errors.
        expected = (p**2).sum(axis=1)
        variance = (p**3).sum(axis=1) - expected**2
        assert abs(clicked.mean() - expected.mean()) < 4 * np.sqrt(variance.sum()) / len(rows)


def test_taste_drifts(truth: Truth) -> None:
    users = [f"user-{n:04}" for n in range(200)]
    domain = truth.domains[0]
    months = np.linspace(0, YEAR_SECONDS - 1, 4).astype(np.int64) + START_SECONDS
    by_time = [truth.probabilities(users, domain, timestamps=np.full(200, t)) for t in months]
    distances = [np.abs(later - by_time[0]).sum(axis=1).mean() for later in by_time]
    assert distances[0] == 0
    assert all(earlier < later for earlier, later in itertools.pairwise(distances))


def ndcg(dataset: Dataset, truth: Truth | None) -> float:
    """Return test ndcg@10 over a domain's pool, for users new in it; by popularity if None."""
    users, items = np.array(dataset.user_ids.to_pylist()), dataset.item_ids.to_pylist()
    events = dataset.events(Part.TEST)
    gains = []
    for number, domain in enumerate(dataset.catalogue.domains):
        here = events[dataset.event_domain[events] == number]
        pool = dataset.catalogue.pool(number)
        if truth is None:
            scores = np.broadcast_to(dataset.item_clicks[pool], (len(here), pool.stop - pool.start))
        else:
            names = truth.domain_items(domain)
            columns = [names.index(item) for item in items[pool]]
            owners = users[dataset.users_of(here)].tolist()
            times = dataset.event_time[here] // 1000
            scores = truth.probabilities(owners, domain, timestamps=times)[:, columns]
        clicked = scores[np.arange(len(here)), dataset.event_item[here] - pool.start]
        ranks = (scores > clicked[:, None]).sum(axis=1)
        gains.append(np.where(ranks < 10, 1 / np.log2(ranks + 2), 0))
    return float(np.concatenate(gains).mean())


def test_other_domains_tell_what_a_new_user_wants(new_users: Dataset, truth: Truth) -> None:
    popularity = ndcg(new_users, None)
    # Without a taste for single domains, what a user wants can be learnt from the others.
    shared = ndcg(new_users, dataclasses.replace(truth, own=np.zeros_like(truth.own)))
    assert shared > 1.5 * popularity
    assert ndcg(new_users, truth) > 1.1 * shared  # and each domain has something of its own


def test_the_truth_comes_back_from_its_file(truth: Truth, tmp_path: Path) -> None:
    truth.save(tmp_path / "copy.safetensors")
    copy = Truth.load(tmp_path / "copy.safetensors")
    assert copy.domains == truth.domains
    np.testing.assert_array_equal(copy.own, truth.own)


def test_a_file_that_is_no_truth(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot read the truth"):
        Truth.load(tmp_path / "none.safetensors")
    (tmp_path / "odd.safetensors").write_bytes(b"odd")
    with pytest.raises(DatasetError, match="cannot read the truth"):
        Truth.load(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("items", [500, 550, 700])
def test_many_small_domains_have_ten_items_each(items: int, tmp_path: Path) -> None:
    sizes = {"users": 1000, "items": items, "domains": 50, "events": 1000}
    truth = Truth.load(simulate(tmp_path / "log.parquet", **sizes).truth)
    counts = np.diff(truth.item_offsets)
    assert counts.min() >= 10 and counts.sum() == items


@pytest.mark.parametrize(
    ("items", "counts"), [(120, [74, 32, 14]), (60, [34, 16, 10]), (34, [14, 10, 10])]
)
def test_how_items_are_shared_out(items: int, counts: list[int], tmp_path: Path) -> None:
    sizes = {**SMALL, "items": items, "events": 200}
    truth = Truth.load(simulate(tmp_path / "log.parquet", **sizes).truth)
    assert np.diff(truth.item_offsets).tolist() == counts


def test_existing_files_are_refused_or_replaced(tmp_path: Path) -> None:
    simulate(tmp_path / "log.parquet", **SMALL)
    with pytest.raises(OutputError, match=r"log\.parquet' exists already"):
        simulate(tmp_path / "log.parquet", **SMALL)
    (tmp_path / "log.parquet").unlink()
    with pytest.raises(OutputError, match=r"truth\.safetensors' exists already"):
        simulate(tmp_path / "log.parquet", **SMALL)
    simulate(tmp_path / "log.parquet", **SMALL, overwrite=True)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"users": 0}, "must be at least 1"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"items": 29}, "3 domains need at least 30 items, not 29"),
        ({"events": 10_000}, "200 users and 120 items can give 2400 events without repeats"),
    ],
)
def test_sizes_that_do_not_go_together(sizes: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate(tmp_path / "log.parquet", **{**SMALL, "events": 100, **sizes})
    with pytest.raises(OutputError, match=r"log\.txt' must end in \.parquet, \.csv or \.jsonl"):
        simulate(tmp_path / "log.txt", **SMALL)


def test_a_disk_without_room_is_one_clear_error(tmp_path: Path) -> None:
    words = "simulate log.parquet --users 500 --items 200 --events 5000"
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 4; exec {sys.executable} -B -m crossfeed {words}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write 'log.parquet'")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
