"""What the text of a CSV stands for: missing values, and integers written as floats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossfeed.config import DataConfig
from crossfeed.data.inspect.oddities import WordsForMissing
from crossfeed.data.inspect.quality import validate_log
from crossfeed.errors import QuarantineError

Read = Callable[..., Any]  # Any: the ReadLog of conftest

HEAD = "user_id,item_id,domain,timestamp\n"


def csv(path: Path, *users: object, domain: object = "d") -> Path:
    """Write a row of each user."""
    path.parent.mkdir(exist_ok=True)
    rows = (f"{user},i{n},{domain},{1_600_000_000 + n}\n" for n, user in enumerate(users))
    path.write_text(HEAD + "".join(rows))
    return path


def users(found: Any) -> list[object]:
    return [row["user_id"] for row in found.rows]


# Words for a missing value


WORDS = DataConfig().missing_values


@pytest.mark.parametrize("word", WORDS)
def test_a_word_for_a_missing_value_is_no_id(word: str, tmp_path: Path, read: Read) -> None:
    found = read(csv(tmp_path / "log.csv", 1, word, 2, f'"{word}"', ""))
    assert users(found) == [1, 2]  # integers, whatever stands between them
    assert found.told.quarantined == {
        f"missing user_id, written as {word}": 2,
        "missing user_id": 1,
    }


def test_each_word_is_counted_by_itself_and_validate_says_so(tmp_path: Path) -> None:
    path = csv(tmp_path / "log.csv", *range(60), "NA", r"\N", "NA", "nan")
    report = validate_log(path, config=DataConfig(max_quarantine_share=0.1))
    assert report.users == 60
    assert report.quarantined == {
        "missing user_id, written as NA": 2,
        r"missing user_id, written as \N": 1,
        "missing user_id, written as nan": 1,
    }
    assert report.examples["missing user_id, written as NA"] == f"{path}, row 61"
    with pytest.raises(QuarantineError, match="written as NA: 2 ") as caught:
        validate_log(path)
    assert "data.missing_values says which words" in str(caught.value.hint)


@pytest.mark.parametrize("column", ["item_id", "domain", "timestamp"])
def test_every_column_that_is_needed_may_have_a_missing_value(
    column: str, tmp_path: Path, read: Read
) -> None:
    row = {"user_id": "u", "item_id": "i", "domain": "d", "timestamp": "1600000000"}
    frame = pd.DataFrame([row, {**row, column: "NULL"}])
    frame.to_csv(tmp_path / "log.csv", index=False)
    assert read(tmp_path / "log.csv").told.quarantined == {f"missing {column}, written as NULL": 1}


def test_a_word_is_an_id_where_the_setting_leaves_it_out(tmp_path: Path, read: Read) -> None:
    path = csv(tmp_path / "log.csv", "NA", "nan", "-", domain="NA")
    found = read(path, missing_values=["-"])
    assert users(found) == ["NA", "nan"]
    assert {row["domain"] for row in found.rows} == {"NA"}
    assert found.told.quarantined == {"missing user_id, written as -": 1}


def test_a_word_is_part_of_no_longer_id(tmp_path: Path, read: Read) -> None:
    odd = ["NAN", "Na", "NA ", "NULLs", "none"]
    assert users(read(csv(tmp_path / "log.csv", *odd))) == odd


def test_typed_columns_keep_such_ids_and_validate_warns(tmp_path: Path) -> None:
    log = pa.table(
        {
            "user_id": ["nan", "nan", "None", "anna"],
            "item_id": ["a", "b", "c", "d"],
            "domain": ["d"] * 4,
            "timestamp": [1_600_000_000] * 4,
        }
    )
    pq.write_table(log, tmp_path / "log.parquet")
    report = validate_log(tmp_path / "log.parquet")
    assert (report.users, report.quarantined) == (3, {})
    assert report.oddities.words == (WordsForMissing("user_id", {"nan": 2, "None": 1}),)
    told = "a user_id is a word for a missing value: 'nan' in 2 clicks, 'None' in 1 clicks"
    assert any(told in warning for warning in report.warnings)


# Integers written as floats


def test_integers_of_a_file_with_gaps_are_those_of_the_others(tmp_path: Path, read: Read) -> None:
    jan, feb = pd.DataFrame({"user_id": [1, 2]}), pd.DataFrame({"user_id": [1, None, 2]})
    for name, month in (("jan", jan), ("feb", feb)):
        more = {"item_id": "i", "domain": "d", "timestamp": 1_600_000_000}
        month.assign(**more).to_csv(tmp_path / f"{name}.csv", index=False)
    found = read(tmp_path)
    assert users(found) == [1, 2, 1, 2]
    assert found.told.user_ids == "integer"
    [note] = found.told.notes
    assert note.startswith(f"every user_id in '{tmp_path}/feb.csv' ends in .0")


def test_the_domain_1_is_also_1_0(tmp_path: Path, read: Read) -> None:
    csv(tmp_path / "logs" / "a.csv", "u", domain=1)
    csv(tmp_path / "logs" / "b.csv", "u", domain="1.0")
    for number, column in enumerate(([1], [1.0])):
        table = pa.table(
            {"user_id": ["u"], "item_id": ["i"], "domain": column, "timestamp": [1_600_000_000]}
        )
        (tmp_path / "parquet").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "parquet" / f"{number}.parquet")
    for folder in ("logs", "parquet"):
        assert [row["domain"] for row in read(tmp_path / folder).rows] == ["1", "1"]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["7.0", "-8.0", "0.0"], [7, -8, 0]),
        (["7.0", "NA", ""], [7]),
        (["7.0", "8"], ["7.0", "8"]),
        (["7.0", "8.5"], ["7.0", "8.5"]),
        (["07.0", "7.0"], ["07.0", "7.0"]),
        (["7.00", "7.0"], ["7.00", "7.0"]),
        (["v1.0"], ["v1.0"]),
    ],
)
def test_only_a_file_of_such_ids_alone_is_taken_for_one(
    ids: list[str], expected: list[object], tmp_path: Path, read: Read
) -> None:
    assert users(read(csv(tmp_path / "log.csv", *ids), max_quarantine_share=1)) == expected


def test_ids_of_text_stay_text_and_meet_those_of_a_file_with_gaps(
    tmp_path: Path, read: Read
) -> None:
    csv(tmp_path / "a.csv", "anna", "7")
    csv(tmp_path / "b.csv", "7.0", "8.0")
    assert users(read(tmp_path)) == ["anna", "7", "7", "8"]


def test_both_spellings_in_one_file_are_told_as_twins(tmp_path: Path) -> None:
    report = validate_log(csv(tmp_path / "log.csv", "7", "7.0", "8"))
    [twins] = report.oddities.twins
    assert (twins.kind, twins.groups, twins.examples) == ("user_id", 1, (("7", "7.0"),))


def test_a_dataset_of_months_is_that_of_the_whole(
    tmp_path: Path, prepared: Callable[..., Any]
) -> None:
    log = pd.DataFrame(
        {
            "user_id": [n % 7 for n in range(60)],
            "item_id": [n % 11 for n in range(60)],
            "domain": [1 + n % 2 for n in range(60)],
            "timestamp": [1_600_000_000 + n for n in range(60)],
        }
    )
    (tmp_path / "months").mkdir()
    log[:30].to_csv(tmp_path / "months" / "1.csv", index=False)
    gaps = log[30:].astype({"user_id": float, "domain": float, "item_id": float})
    gaps.to_csv(tmp_path / "months" / "2.csv", index=False)
    months = prepared(tmp_path / "months", name="a", repeats="keep")
    whole = prepared(log, name="b", repeats="keep")
    assert months.manifest["content_hash"] == whole.manifest["content_hash"]
