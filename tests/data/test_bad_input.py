"""Strange logs are read as they are, or refused with what is wrong and what to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossfeed.config import DataConfig
from crossfeed.data.dataset import Dataset
from crossfeed.data.prepare import pipeline as module
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.errors import LogError, QuarantineError

CONFIG = DataConfig(split="last-out", min_user_events=1, min_item_events=1, min_domain_events=1)


def log(users: int = 20, items: int = 6, domain: str = "books") -> pd.DataFrame:
    rows = [
        (f"u{u}", f"i{i}", domain, 1_700_000_000 + 60 * (u + i))
        for u in range(users)
        for i in range(items)
    ]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "domain", "timestamp"])


def events(dataset: Dataset) -> int:
    return int(dataset.manifest["counts"]["events"])


def test_a_folder_that_holds_itself_is_read_once(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log().to_csv(folder / "log.csv", index=False)
    (folder / "again").symlink_to(folder, target_is_directory=True)
    assert events(prepare(folder, out=tmp_path / "out", config=CONFIG)) == 120


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "logs" / os.fsdecode(b"log\xff.csv")
    file.parent.mkdir()
    log().to_csv(file, index=False)
    for given in (file, file.parent):
        with pytest.raises(LogError, match=r"log\ufffd\.csv' is not UTF-8: rename the file"):
            prepare(given, out=tmp_path / "out", config=CONFIG)


def test_parquet_without_columns_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({}), tmp_path / "log.parquet")
    with pytest.raises(LogError, match=r"log\.parquet' has no columns"):
        prepare(tmp_path / "log.parquet", out=tmp_path / "out", config=CONFIG)


def test_a_csv_of_one_long_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("x" * 200_000)
    with pytest.raises(LogError, match=r"the first line of '.*log\.csv' names no columns"):
        prepare(tmp_path / "log.csv", out=tmp_path / "out", config=CONFIG)


def test_a_type_that_the_engine_has_not_matters_where_it_is_needed(tmp_path: Path) -> None:
    table = pa.Table.from_pandas(log())
    unknown = pa.nulls(120, pa.dense_union([pa.field("a", pa.int8())]))
    more = table.append_column("x", unknown)
    assert events(prepare(more, out=tmp_path / "out", config=CONFIG)) == 120
    needed = table.set_column(1, "item_id", unknown)
    with pytest.raises(LogError, match="the column 'item_id' is dense_union"):
        prepare(needed, out=tmp_path / "other", config=CONFIG)


def test_a_link_to_itself_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "log.csv").symlink_to(tmp_path / "log.csv")
    with pytest.raises(LogError, match=r"there is no file '.*log\.csv'|cannot be read"):
        prepare(tmp_path / "log.csv", out=tmp_path / "out", config=CONFIG)


def test_users_of_one_event_leave_nothing_and_the_hint_says_why(tmp_path: Path) -> None:
    lonely = log(users=300, items=1)
    with pytest.raises(LogError, match="no click is left for training") as caught:
        prepare(lonely, out=tmp_path / "out", config=DataConfig(min_domain_events=1))
    assert "lower data.min_user_events (2)" in str(caught.value.hint)


def test_ten_thousand_domains(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = 60_000
    many = pd.DataFrame(
        {
            "user_id": rng.integers(300, size=rows),
            "item_id": rng.integers(5, size=rows),
            "domain": [f"domain {n % 10_000}" for n in range(rows)],
            "timestamp": 1_700_000_000 + np.arange(rows),
        }
    )
    dataset = prepare(
        many, out=tmp_path / "out", config=DataConfig(min_domain_events=1, min_item_events=1)
    )
    assert len(dataset.catalogue.domains) == 10_000
    dataset.verify()


@pytest.mark.parametrize(
    "name", ["books/new", "two\nlines", "../../etc", "ä  ö", "a" * 300, "'; --"]
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_any_name_of_a_domain_comes_back_unchanged(name: str, kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"log.{kind}"
    named = log(domain=name)
    named.to_csv(file, index=False) if kind == "csv" else named.to_parquet(file)
    dataset = prepare(file, out=tmp_path / "out", config=CONFIG)
    assert dataset.catalogue.domains == (name,)
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name, "out"]


def test_an_id_of_ten_kilobytes_comes_back_unchanged(tmp_path: Path) -> None:
    long = log()
    long["item_id"] += "é" * 5_000
    dataset = prepare(long, out=tmp_path / "out", config=CONFIG)
    assert set(dataset.item_ids.to_pylist()) == set(long["item_id"])


def test_a_row_in_another_encoding_is_set_apart(tmp_path: Path) -> None:
    text = log().to_csv(index=False).encode()
    file = tmp_path / "log.csv"
    file.write_bytes(text + "u1,café,books,1700000000\n".encode("latin-1"))
    dataset = prepare(file, out=tmp_path / "out", config=CONFIG)
    assert events(dataset) == 120
    assert sum(dataset.manifest["log"]["quarantined"].values()) == 1


def test_a_log_in_another_encoding_is_refused(tmp_path: Path) -> None:
    other = log(domain="bücher").to_csv(index=False).encode("latin-1")
    (tmp_path / "log.csv").write_bytes(other)
    with pytest.raises(QuarantineError, match="120 of 120 rows cannot be read"):
        prepare(tmp_path / "log.csv", out=tmp_path / "out", config=CONFIG)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_log_that_changes_while_it_is_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / f"log.{kind}"
    write: dict[str, Callable[[pd.DataFrame], object]] = {
        "csv": lambda table: table.to_csv(file, index=False),
        "parquet": lambda table: table.to_parquet(file),
    }
    write[kind](log())
    encode = module.encode

    def encode_late(*given: Any, **named: Any) -> object:
        write[kind](log(users=30))
        return encode(*given, **named)

    monkeypatch.setattr(module, "encode", encode_late)
    with pytest.raises(LogError, match="the log changed while it was read"):
        prepare(file, out=tmp_path / "out", config=CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
