"""From a log to a dataset: what is dropped, in which order events stand, what is hashed."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossfeed.config import DataConfig
from crossfeed.data.dataset import Dataset, Part
from crossfeed.data.engines.duckdb_engine import open_duckdb
from crossfeed.data.logs import open_log, reading
from crossfeed.data.prepare import pipeline as module
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.errors import ConfigError, DatasetError, LogError, OutputError

START = 1_600_000_000


def random_log(*, rows: int = 2000, times: int = 50, seed: int = 0) -> pd.DataFrame:
    """Return a log with many clicks of one user at one time, and repeats."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user_id": [f"u{n:02}" for n in rng.integers(40, size=rows)],
            "item_id": rng.integers(60, size=rows),
            "domain": rng.choice(["books", "films", "games"], size=rows),
            "timestamp": START + 86_400 * rng.integers(times, size=rows),
        }
    )


def timeline(dataset: Dataset, user: str) -> list[object]:
    """Return the items of a user's events, in the dataset's order."""
    number = dataset.user_ids.to_pylist().index(user)
    first, last = dataset.user_offsets[number : number + 2]
    return dataset.item_ids.take(pa.array(dataset.event_item[first:last])).to_pylist()


# What stays


def rows(*events: tuple[str, str, str]) -> pd.DataFrame:
    """Return a log of user, domain, item, one a minute."""
    log = pd.DataFrame(events, columns=["user_id", "domain", "item_id"])
    return log.assign(timestamp=START + 60 * np.arange(len(log)))


@pytest.mark.parametrize(
    ("repeats", "expected"),
    [
        ("first", ["a", "b", "c", "d"]),
        ("last", ["b", "a", "c", "d"]),
        ("keep", ["a", "b", "a", "c", "d"]),
    ],
)
def test_repeats(repeats: str, expected: list[str], prepared: Callable[..., Dataset]) -> None:
    log = rows(*[("anna", "books", item) for item in "abacd"])
    dataset = prepared(log, repeats=repeats, split="last-out")
    assert timeline(dataset, "anna") == expected
    assert dataset.manifest["dropped"]["repeat"] == 5 - len(expected)


def test_an_item_id_in_two_domains_is_two_items(prepared: Callable[..., Dataset]) -> None:
    log = rows(*[("anna", domain, item) for domain in ("books", "films") for item in "abc"])
    dataset = prepared(log, split="last-out")
    assert dataset.catalogue.items == 6
    assert dataset.item_ids.to_pylist() == ["a", "b", "c"] * 2
    assert dataset.manifest["counts"]["items_in_several_domains"] == 3
    assert dataset.manifest["dropped"]["repeat"] == 0


def test_the_k_core_is_repeated_until_it_holds(prepared: Callable[..., Dataset]) -> None:
    core = [(f"u{user}", "books", f"i{item}") for item in range(4) for user in range(4)]
    # Dropping the item "x" leaves "eve" two clicks; without her the item "y" has two.
    chain = [("eve", "books", "x"), ("eve", "books", "y"), ("eve", "books", "i0")]
    chain += [("u0", "books", "y"), ("u1", "books", "y")]
    settings = {"min_user_events": 3, "min_item_events": 3, "split": "last-out"}
    dataset = prepared(rows(*core, *chain), **settings)
    assert dataset.user_ids.to_pylist() == ["u0", "u1", "u2", "u3"]
    assert sorted(dataset.item_ids.to_pylist()) == ["i0", "i1", "i2", "i3"]
    assert dataset.manifest["dropped"]["k-core"] == 5


def test_a_small_domain_is_dropped_and_the_k_core_holds_again(
    prepared: Callable[..., Dataset],
) -> None:
    core = [(f"u{user}", "books", f"i{item}") for item in range(4) for user in range(4)]
    films = [(user, "films", item) for item in ("f", "g") for user in ("u0", "eve")]
    # Without films, eve has one click left.
    log = rows(*core, *films, ("eve", "books", "i0"))
    settings = {"min_user_events": 2, "min_item_events": 2, "split": "last-out"}
    dataset = prepared(log, min_domain_events=5, **settings)
    assert dataset.catalogue.domains == ("books",)
    assert dataset.user_ids.to_pylist() == ["u0", "u1", "u2", "u3"]
    assert dataset.manifest["dropped"] == {
        **{"not a click": 0, "repeat": 0},
        **{"k-core": 1, "small domain": 4},
    }


def test_impressions_are_counted_and_never_history(prepared: Callable[..., Dataset]) -> None:
    log = rows(*[("anna", "books", item) for item in "abcdef"])
    log["label"] = [1, 0, 1, 1, 0, 1]
    dataset = prepared(log, split="last-out")
    assert timeline(dataset, "anna") == ["a", "c", "d", "f"]
    assert dataset.manifest["dropped"]["not a click"] == 2


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"min_item_events": 50}, r"lower data.min_user_events \(1\) or data.min_item_events"),
        ({"min_domain_events": 10_000}, r"lower data.min_domain_events \(10000\)"),
        ({"positive": "item_id < 0"}, "look at data.positive"),
    ],
)
def test_when_nothing_is_left_the_hint_names_the_cause(
    settings: dict[str, object], hint: str, prepared: Callable[..., Dataset], tmp_path: Path
) -> None:
    with pytest.raises(LogError, match=f"no click is left for training.*(.|\n)*{hint}"):
        prepared(random_log(), split="last-out", **settings)
    assert not any(tmp_path.iterdir())


# Order


def test_clicks_of_one_time_are_in_the_order_of_a_hash_of_their_content(
    prepared: Callable[..., Dataset],
) -> None:
    items = [f"i{n}" for n in range(20)]
    log = pd.DataFrame({"user_id": "anna", "item_id": items, "domain": "books"})
    dataset = prepared(log.assign(timestamp=START), split="last-out")
    digests = {item: hashlib.md5(f"anna|books|{item}".encode()).hexdigest() for item in items}
    assert timeline(dataset, "anna") == sorted(items, key=digests.__getitem__)
    assert any("md5('user_id|domain|item_id')" in rule for rule in dataset.manifest["rules"])


def test_users_order_the_same_items_differently(prepared: Callable[..., Dataset]) -> None:
    """Else some items would be everybody's last click of the day, and so tell of the test part."""
    log = pd.DataFrame(
        [(f"u{user}", f"i{item}") for user in range(50) for item in range(10)],
        columns=["user_id", "item_id"],
    ).assign(domain="books", timestamp=START)
    dataset = prepared(log, split="last-out")
    lasts = {timeline(dataset, f"u{user}")[-1] for user in range(50)}
    assert len(lasts) >= 8


def test_events_are_sorted_by_user_and_time(prepared: Callable[..., Dataset]) -> None:
    dataset = prepared(random_log(times=1000), split="last-out")
    owners = dataset.users_of(np.arange(len(dataset.event_time)))
    assert (np.diff(owners) >= 0).all()
    assert (np.diff(dataset.event_time)[np.diff(owners) == 0] >= 0).all()


def test_trained_items_come_first_in_their_domain(prepared: Callable[..., Dataset]) -> None:
    late = random_log(rows=120, seed=1).assign(item_id=1000, timestamp=START + 86_400 * 1001)
    log = pd.concat([random_log(times=1000), late])
    dataset = prepared(log, split="temporal", min_item_events=9)
    catalogue = dataset.catalogue
    assert (catalogue.trained < dataset.trained_on_all).any()
    assert (dataset.trained_on_all < np.diff(catalogue.offsets)).any()
    clicks_all = pq.read_table(dataset.path / "items.parquet")["clicks_all"].to_numpy()
    for domain in range(len(catalogue.domains)):
        pool = catalogue.pool(domain)
        clicks, everywhere = dataset.item_clicks[pool], clicks_all[pool]
        trained, on_all = int(catalogue.trained[domain]), int(dataset.trained_on_all[domain])
        assert (clicks[:trained] >= 9).all()
        assert (everywhere[trained:on_all] >= 9).all()
        assert (everywhere[on_all:] < 9).all()
        for part in (slice(trained), slice(trained, on_all), slice(on_all, None)):
            assert (np.diff(clicks[part]) <= 0).all()
    owners = catalogue.domain_of(dataset.event_item.astype(np.int64))
    assert (owners == dataset.event_domain).all()


# Hashes


@pytest.mark.parametrize(
    ("split", "repeats"),
    [
        *(("temporal", "first"), ("temporal", "last"), ("new-in-domain", "first")),
        *(("last-out", "first"), ("last-out", "keep")),
    ],
)
def test_neither_a_rerun_nor_the_order_of_rows_changes_the_hashes(
    split: str, repeats: str, prepared: Callable[..., Dataset], tmp_path: Path
) -> None:
    log = random_log()
    settings = {"split": split, "repeats": repeats, "min_item_events": 9}
    first = prepared(log, name="first", **settings).manifest
    again = prepared(log, name="again", **settings).manifest
    assert again["hashes"] == first["hashes"]
    assert again["content_hash"] == first["content_hash"]
    shuffled = log.sample(frac=1, random_state=1)
    (tmp_path / "log").mkdir()
    for number in range(3):  # in several files, of another format at that
        shuffled[number::3].to_csv(tmp_path / "log" / f"{number}.csv", index=False)
    other = prepared(tmp_path / "log", name="other", **settings).manifest
    assert other["hashes"] == first["hashes"]


def test_another_log_has_another_hash(prepared: Callable[..., Dataset]) -> None:
    log = random_log()
    first = prepared(log, name="first", split="last-out").manifest
    log.loc[0, "timestamp"] += 1
    second = prepared(log, name="second", split="last-out").manifest
    assert first["content_hash"] != second["content_hash"]
    changed = {name for name, value in first["hashes"].items() if second["hashes"][name] != value}
    assert "events.time" in changed
    assert "users.user_id" not in changed


def test_the_manifest_agrees_with_the_files(prepared: Callable[..., Dataset]) -> None:
    dataset = prepared(random_log(), split="temporal", min_item_events=12)
    counts, domains = dataset.manifest["counts"], dataset.manifest["domains"]
    assert counts["events"] == len(dataset.event_item) == sum(counts["parts"].values())
    assert counts["users"] == dataset.users
    assert counts["items"] == dataset.catalogue.items == sum(row["items"] for row in domains)
    assert [row["trained_items"] for row in domains] == dataset.catalogue.trained.tolist()
    dropped = sum(dataset.manifest["dropped"].values())
    assert counts["events"] + dropped == dataset.manifest["log"]["rows"] == 2000
    trained = np.isin(dataset.event_item, dataset.catalogue.trained_items)
    untrained = (dataset.event_part == Part.TRAIN) & ~trained
    assert sum(dataset.manifest["untrained"].values()) >= untrained.sum() > 0
    for number, row in enumerate(domains):
        here = dataset.event_domain == number
        assert row["users"] == len(set(dataset.users_of(np.flatnonzero(here))))
        assert sum(row["events"].values()) == here.sum()
    assert dataset.config == DataConfig.model_validate(dataset.manifest["config"])


# Verification


def test_verify_accepts_what_prepare_wrote(prepared: Callable[..., Dataset]) -> None:
    prepared(random_log(), split="last-out").verify()


def test_verify_names_what_was_changed(prepared: Callable[..., Dataset]) -> None:
    dataset = prepared(random_log(), split="last-out")
    part = np.load(dataset.path / "events" / "part.npy")
    np.save(dataset.path / "events" / "part.npy", part[::-1])
    with pytest.raises(DatasetError, match=r"changed since it was written: events\.part\n"):
        dataset.verify()
    items = pq.read_table(dataset.path / "items.parquet")
    clicks = pa.array(items["clicks"].to_numpy() + 1)
    position = items.column_names.index("clicks")
    pq.write_table(items.set_column(position, "clicks", clicks), dataset.path / "items.parquet")
    with pytest.raises(DatasetError, match=r"written: events\.part, items\.clicks\n"):
        Dataset.load(dataset.path).verify()
    (dataset.path / "users.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match="is damaged"):
        dataset.verify()


def test_hashes_ignore_how_the_files_are_laid_out(prepared: Callable[..., Dataset]) -> None:
    dataset = prepared(random_log(), split="last-out")
    for name in ("users", "items"):
        path = dataset.path / f"{name}.parquet"
        pq.write_table(pq.read_table(path), path, row_group_size=7, compression="zstd")
    dataset.verify()


# Output


def test_an_existing_dataset_is_refused_or_replaced(tmp_path: Path) -> None:
    out = tmp_path / "data"
    config = DataConfig(split="last-out")
    first = prepare(random_log(), out=out, config=config)
    with pytest.raises(OutputError, match="exists already"):
        prepare(random_log(seed=1), out=out, config=config)
    assert Dataset.load(out).manifest == first.manifest
    second = prepare(random_log(seed=1), out=out, config=config, overwrite=True)
    assert second.manifest["content_hash"] != first.manifest["content_hash"]


@pytest.mark.parametrize(
    ("failure", "expected", "message"),
    [
        (KeyboardInterrupt("Ctrl-C"), KeyboardInterrupt, "Ctrl-C"),
        (OSError(errno.ENOSPC, "No space left on device"), OutputError, "No space left on device"),
    ],
)
def test_what_fails_in_writing_leaves_nothing_and_replaces_nothing(
    failure: BaseException,
    expected: type[BaseException],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = DataConfig(split="last-out")
    first = prepare(random_log(), out=tmp_path / "data", config=config)

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(module, "write_parquet", fail)  # after tables and events were written
    with pytest.raises(expected, match=message):
        prepare(random_log(seed=1), out=tmp_path / "data", config=config, overwrite=True)
    with pytest.raises(expected, match=message):
        prepare(random_log(seed=1), out=tmp_path / "other", config=config)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    Dataset.load(tmp_path / "data").verify()
    assert Dataset.load(tmp_path / "data").manifest == first.manifest


FULL_DISK = """
import resource, signal, sys
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.errors import OutputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    prepare(sys.argv[1], out=sys.argv[2])
except OutputError as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.parametrize("most_bytes", [100_000, 700_000])
def test_no_file_may_grow_and_the_error_says_so(most_bytes: int, tmp_path: Path) -> None:
    log = random_log(rows=300_000, times=1000)
    pq.write_table(pa.Table.from_pandas(log), tmp_path / "log.parquet")
    process = subprocess.run(
        [
            *(sys.executable, "-c", FULL_DISK),
            *(str(tmp_path / "log.parquet"), str(tmp_path / "data"), str(most_bytes)),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 7, process.stderr
    assert "nothing was replaced" in process.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["log.parquet"]


@pytest.mark.parametrize(
    "error",
    [
        duckdb.TransactionException("Failed to commit: Could not write file 'w.duckdb.wal'"),
        duckdb.FatalException("Failed to create checkpoint: Could not write file 'w.duckdb'"),
        duckdb.IOException("Could not write file 'shop/x.csv.log.csv': No space left on device"),
        duckdb.OutOfMemoryException("failed to allocate data of size 1 MiB"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_full_disk_is_not_blamed_on_the_log(
    error: duckdb.Error, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    random_log().to_csv("log.csv", index=False)
    log = open_log("log.csv", config=DataConfig())
    with (
        pytest.raises(OutputError, match="the work did not fit") as caught,
        open_duckdb(tmp_path / "scratch"),
        reading(log),
    ):
        raise error
    assert "nothing was replaced" in str(caught.value.hint)


def test_a_log_that_cannot_be_read_any_more_is_blamed(tmp_path: Path) -> None:
    random_log().to_csv(tmp_path / "log.csv", index=False)
    log = open_log(tmp_path / "log.csv", config=DataConfig())
    with (
        pytest.raises(LogError, match=r"log\.csv' cannot be read: Could not read"),
        open_duckdb(tmp_path / "scratch"),
        reading(log),
    ):
        raise duckdb.IOException(f'Could not read from file "{tmp_path}/log.csv"')


def test_an_unknown_source_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="source 'netflux' is unknown; it is one of: movielens"):
        prepare(tmp_path / "log", out=tmp_path / "data", source="netflux")
