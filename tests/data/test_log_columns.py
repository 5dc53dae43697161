"""Columns of every type and name: what is needed is read, what is not needed stops nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossfeed.config import DataConfig
from crossfeed.data.inspect.quality import validate_log
from crossfeed.data.logs import open_log
from crossfeed.errors import ConfigError, LogError

Read = Callable[..., Any]  # Any: the ReadLog of conftest

NANOSECONDS = 1_600_000_000_987_999_999
MS = NANOSECONDS // 1_000_000
SECOND = 1_600_000_000_000
DAY = SECOND - SECOND % 86_400_000


def table(**columns: pa.Array) -> pa.Table:
    """Return a log of as many rows as the given columns have."""
    count = len(next(iter(columns.values())))
    dull = {
        "user_id": pa.array([f"u{row}" for row in range(count)]),
        "item_id": pa.array(["i"] * count),
        "domain": pa.array(["d"] * count),
        "timestamp": pa.array([1_600_000_000] * count),
    }
    return pa.table({**dull, **columns})


def csv(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# Types of times


def timestamps() -> dict[pa.DataType, int]:
    exact = {"s": SECOND, "ms": MS, "us": MS, "ns": MS}
    zones = (None, "UTC", "+02:00", "Europe/Berlin", "America/New_York")
    return {pa.timestamp(unit, zone): ms for unit, ms in exact.items() for zone in zones}


@pytest.mark.parametrize("kept", ["memory", "parquet"])
@pytest.mark.parametrize("type_", timestamps(), ids=str)
def test_every_type_of_timestamp_gives_its_milliseconds(
    type_: pa.DataType, kept: str, tmp_path: Path, read: Read
) -> None:
    nanoseconds = pa.array([NANOSECONDS, None], pa.int64()).cast(pa.timestamp("ns"))
    log = table(timestamp=nanoseconds.cast(type_, safe=False))
    if kept == "parquet":
        pq.write_table(log, tmp_path / "log.parquet", store_schema=False)
    found = read(tmp_path / "log.parquet" if kept == "parquet" else log)
    assert [row["time"] for row in found.rows] == [timestamps()[type_]]
    assert found.told.quarantined == {"missing timestamp": 1}


@pytest.mark.parametrize(
    ("values", "type_", "ms"),
    [
        ([date(2020, 9, 13)], pa.date32(), DAY),
        ([date(2020, 9, 13)], pa.date64(), DAY),
        ([1_600_000_000], pa.uint32(), SECOND),
        ([1_600_000_000], pa.uint64(), SECOND),
        ([1_600_000_000.0], pa.float64(), SECOND),
        ([Decimal("1600000000.987999999")], pa.decimal128(30, 9), MS),
        ([Decimal("1600000000.987")], pa.decimal256(50, 3), MS),
        (["1600000000"], pa.string_view(), SECOND),
        (["2020-09-13T12:26:40.987999999Z"], pa.large_string(), MS),
        (["2020-09-13 12:26:40"], pa.dictionary(pa.int8(), pa.string()), SECOND),
        ([1_600_000_000], pa.dictionary(pa.int8(), pa.int64()), SECOND),
    ],
)
def test_every_other_type_of_times(
    values: list[object], type_: pa.DataType, ms: int, read: Read
) -> None:
    if pa.types.is_dictionary(type_):
        array = pa.array(values, type_.value_type).dictionary_encode().cast(type_)
    else:
        array = pa.array(values, type_)
    assert [row["time"] for row in read(table(timestamp=array)).rows] == [ms]


def test_timestamps_of_several_types_in_several_files(tmp_path: Path, read: Read) -> None:
    moment = datetime(2020, 9, 13, 12, 26, 40, 987_000, UTC)
    for number, type_ in enumerate(
        (pa.timestamp("ns"), pa.timestamp("us", "UTC"), pa.timestamp("ns", "Europe/Berlin"))
    ):
        times = pa.array([moment], pa.timestamp("us", "UTC")).cast(type_)
        pq.write_table(table(timestamp=times), tmp_path / f"{number}.parquet")
    assert [row["time"] for row in read(tmp_path).rows] == [MS] * 3


@pytest.mark.parametrize(
    ("format_", "values", "ms"),
    [
        ("%d.%m.%Y %H:%M", ["13.09.2020 12:26"], SECOND - 40_000),
        ("%m/%d/%Y", ["09/13/2020"], DAY),
        ("%Y%m%d", ["20200913"], DAY),
        ("%Y%m%d", [20200913], DAY),
        ("%Y%m%d", [20200913.0, None], DAY),
        ("%d/%b/%Y:%H:%M:%S %z", ["13/Sep/2020:14:26:40 +0200"], SECOND),
    ],
)
@pytest.mark.parametrize("kept", ["csv", "memory"])
def test_a_format_of_times(
    format_: str, values: list[object], ms: int, kept: str, tmp_path: Path, read: Read
) -> None:
    log = table(timestamp=pa.array(values))
    if kept == "csv":
        log.to_pandas().to_csv(tmp_path / "log.csv", index=False)
    found = read(tmp_path / "log.csv" if kept == "csv" else log, time_format=format_)
    assert [row["time"] for row in found.rows] == [ms]
    assert found.told.time_unit == format_


@pytest.mark.parametrize(
    ("format_", "times", "error", "message"),
    [
        ("%Q", ["1"], ConfigError, "data.time_format = '%Q' is not valid"),
        ("%d.%m.%Y", ["2020-09-13"], LogError, "one of them is '2020-09-13'"),
        ("%Y", [datetime(2020, 9, 13)], ConfigError, "is for text, and the times .* are TIMESTAMP"),
    ],
)
def test_a_format_that_does_not_fit(
    format_: str, times: list[object], error: type[Exception], message: str, read: Read
) -> None:
    with pytest.raises(error, match=message):
        read(table(timestamp=pa.array(times)), time_format=format_)


def test_one_time_in_another_format_is_set_apart(read: Read) -> None:
    found = read(table(timestamp=pa.array(["13.09.2020", "noon"])), time_format="%d.%m.%Y")
    assert found.told.quarantined == {"unparsable timestamp": 1}


def test_unknown_times_are_told_with_the_setting_that_reads_them() -> None:
    with pytest.raises(LogError, match="cannot be recognised") as caught:
        validate_log(table(timestamp=pa.array(["14.11.2023 22:13"])))
    assert "set data.time_format, such as '%d.%m.%Y %H:%M'" in str(caught.value.hint)


@pytest.mark.parametrize(("unit", "factor"), [("us", 1_000), ("ns", 1_000_000)])
def test_every_unit_that_is_detected_may_be_given(unit: str, factor: int, read: Read) -> None:
    found = read(table(timestamp=pa.array([SECOND * factor])), time_unit=unit)
    assert [row["time"] for row in found.rows] == [SECOND]


# Types of ids and domains


@pytest.mark.parametrize(
    ("values", "type_", "ids"),
    [
        ([7, 8], pa.uint64(), [7, 8]),
        ([Decimal(7), Decimal(8)], pa.decimal128(38, 0), [7, 8]),
        ([Decimal("7.00"), Decimal("8.00")], pa.decimal128(10, 2), [7, 8]),
        ([7.0, 8.0], pa.float32(), [7, 8]),
        ([b"a", "é".encode()], pa.binary(), ["a", "é"]),
        (["a", "b"], pa.string_view(), ["a", "b"]),
    ],
)
@pytest.mark.parametrize("kept", ["memory", "parquet"])
def test_ids_of_every_type(
    values: list[object],
    type_: pa.DataType,
    ids: list[object],
    kept: str,
    tmp_path: Path,
    read: Read,
) -> None:
    log = table(user_id=pa.array(values, type_))
    pq.write_table(log, tmp_path / "log.parquet")
    found = read(log if kept == "memory" else tmp_path / "log.parquet")
    assert [row["user_id"] for row in found.rows] == ids


@pytest.mark.parametrize(
    ("values", "type_", "names"),
    [
        ([1.0, 2.5, None], pa.float64(), ["1", "2.5"]),
        ([1.0, float("nan"), 3.0], pa.float64(), ["1", "3"]),
        ([Decimal("1.00"), Decimal("2.50"), None], pa.decimal128(10, 2), ["1", "2.50"]),
        ([1, 2, None], pa.int8(), ["1", "2"]),
        ([True, False, None], pa.bool_(), ["true", "false"]),
    ],
)
@pytest.mark.parametrize("kept", ["memory", "parquet"])
def test_domains_that_are_numbers_are_written_as_integers_are(
    values: list[object],
    type_: pa.DataType,
    names: list[str],
    kept: str,
    tmp_path: Path,
    read: Read,
) -> None:
    log = table(domain=pa.array(values, type_, from_pandas=False))
    pq.write_table(log, tmp_path / "log.parquet")
    found = read(log if kept == "memory" else tmp_path / "log.parquet")
    assert [row["domain"] for row in found.rows] == names
    assert found.told.quarantined == {"missing domain": 1}


def test_numbers_of_json_are_the_same_with_and_without_a_point(tmp_path: Path, read: Read) -> None:
    rows = [
        {"user_id": 7, "item_id": "x", "domain": 1, "timestamp": 1_600_000_000},
        {"user_id": 7.0, "item_id": "y", "domain": 1.0, "timestamp": 1_600_000_000.0},
        {"user_id": 7.5, "item_id": "1.0", "domain": "1.0", "timestamp": 1_600_000_000},
        {"user_id": 8, "item_id": "1.0", "domain": "1.0", "timestamp": 1_600_000_000},
    ]
    csv(tmp_path / "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    found = read(tmp_path / "log.jsonl")
    assert [(row["user_id"], row["item_id"], row["domain"]) for row in found.rows] == [
        (7, "x", "1"),
        (7, "y", "1"),
        (8, "1.0", "1.0"),
    ]
    assert found.told.quarantined == {"user_id is neither a string nor a 64-bit integer": 1}


@pytest.mark.parametrize(
    "empty",
    [pa.nulls(1), pa.nulls(1, pa.float64()), pa.nulls(1, pa.int32()), pa.array([float("nan")])],
    ids=["null", "float", "integer", "not a number"],
)
def test_a_file_without_a_value_in_a_column_does_not_decide_its_type(
    empty: pa.Array, tmp_path: Path, read: Read
) -> None:
    log = table(user_id=pa.array(["anna"]), rating=pa.array(["good"]))
    pq.write_table(log, tmp_path / "a.parquet")
    pq.write_table(table(user_id=empty, rating=empty), tmp_path / "b.parquet")
    found = read(tmp_path, positive="rating = 'good'")
    assert [(row["user_id"], row["clicked"]) for row in found.rows] == [("anna", True)]
    assert found.told.quarantined == {"missing user_id": 1}


def test_a_label_without_any_value_makes_no_click(read: Read) -> None:
    found = read(table(label=pa.nulls(2)))
    assert [row["clicked"] for row in found.rows] == [False, False]


# Names of columns


IDS_BY_CASE = {"user_id": "id", "item_id": "ID"}
LINE = "u1,b1,books,1600000000"


@pytest.mark.parametrize(
    "text",
    [
        f"user_id,item_id,domain,timestamp,\n{LINE},\n",
        f",user_id,item_id,domain,timestamp\n0,{LINE}\n",
        f",user_id,item_id,domain,timestamp,,\n0,{LINE},,\n",
        f"user_id,item_id,domain,timestamp,x,x\n{LINE},1,2\n",
        f"user_id,item_id,domain,timestamp,User_ID,DOMAIN\n{LINE},1,2\n",
        f'user_id,item_id,domain,timestamp,"a ""b""",crossfeed_row\n{LINE},1,2\n',
    ],
    ids=["end", "index", "both", "twice", "case", "odd"],
)
def test_columns_that_are_not_needed_may_have_any_name(
    text: str, tmp_path: Path, read: Read
) -> None:
    found = read(csv(tmp_path / "log.csv", text))
    assert [(row["user_id"], row["item_id"], row["domain"]) for row in found.rows] == [
        ("u1", "b1", "books")
    ]


@pytest.mark.parametrize("kept", ["memory", "parquet"])
@pytest.mark.parametrize(("named", "value"), [("domain", "d"), ("Domain", "1")])
def test_names_that_differ_by_case_in_parquet_and_in_memory(
    named: str, value: str, kept: str, tmp_path: Path, read: Read
) -> None:
    log = table(user_id=pa.array(["u"])).append_column("Domain", pa.array([1]))
    log = log.append_column("x", pa.array([1])).append_column("x", pa.array(["2"]))
    log = log.select([4, 5, 6, 0, 1, 2, 3])
    pq.write_table(log, tmp_path / "log.parquet")
    found = read(log if kept == "memory" else tmp_path / "log.parquet", columns={"domain": named})
    assert [row["domain"] for row in found.rows] == [value]


def test_a_data_frame_with_odd_columns_that_are_not_needed(read: Read) -> None:
    frame = table(user_id=pa.array(["u", "v"])).to_pandas()
    frame["mixed"] = pd.Series([1, "b"], dtype=object)
    frame = pd.concat([frame, frame[["mixed"]]], axis=1)
    frame[3] = [1, 2]
    assert len(read(frame).rows) == 2


@pytest.mark.parametrize(
    ("header", "settings", "message"),
    [
        ("user_id,item_id,domain,domain,timestamp", {}, "the column 'domain' occurs several times"),
        ("user_id,item_id,domain,timestamp,label,label", {}, "'label' occurs several times"),
        ("user_id,item_id,domain,timestamp,x,x", {"positive": "x > 0"}, "'x' occurs several times"),
        (
            "id,ID,domain,timestamp",
            {"columns": {"user_id": "id", "item_id": "ID"}},
            "by case alone",
        ),
    ],
)
def test_columns_that_are_needed_have_a_name_of_their_own(
    header: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = csv(tmp_path / "log.csv", f"{header}\n{','.join('1' for _ in header.split(','))}\n")
    with pytest.raises(LogError, match=message):
        open_log(path, config=DataConfig(**settings))


# Types that values suggest


def rated(*values: str, folder: Path, name: str = "rating") -> Path:
    lines = "".join(f"u{n},i,d,1600000000,{value}\n" for n, value in enumerate(values))
    return csv(folder / "log.csv", f"user_id,item_id,domain,timestamp,{name}\n{lines}")


@pytest.mark.parametrize(
    ("values", "positive", "clicked"),
    [
        (["4.5", "", "3.0"], "rating >= 4", [1, 0, 0]),
        (["4.5", "NA", "3.0"], "rating >= 4", [1, 0, 0]),
        (["4.5", "nan", "NULL"], "rating >= 4", [1, 0, 0]),
        (["5", "", "3"], "rating >= 4", [1, 0, 0]),
        (["true", "", "false"], "rating", [1, 0, 0]),
        (["True", "", "False"], "rating", [1, 0, 0]),
        (["yes", "", "no"], "rating", [1, 0, 0]),
        (["Y", "", "N"], "rating", [1, 0, 0]),
        (["1", "", "0"], "rating", [1, 0, 0]),
        (["1", "", "0"], "rating = 1", [1, 0, 0]),
        (["1.0", "", "0.0"], "rating > 0", [1, 0, 0]),
        (["yes", "", "no"], "rating = 'yes'", [1, 0, 0]),
        (["yes", "", "no"], "upper(rating) = 'YES'", [1, 0, 0]),
        (["true", "", "false"], "rating = 'true'", [1, 0, 0]),
        (["yes", "maybe", "no"], "rating IN ('yes', 'maybe')", [1, 1, 0]),
        (["f", "m", ""], "rating = 'f'", [1, 0, 0]),
        (["f", "f", ""], "rating = 'm'", [0, 0, 0]),
        (["", "", ""], "rating >= 4", [0, 0, 0]),
        (["", "", ""], "rating = 'a'", [0, 0, 0]),
        (["NA", "EU", "NA"], "rating = 'NA'", [1, 0, 1]),
        (["007", "7", ""], "rating = 7", [1, 1, 0]),
    ],
)
def test_missing_values_do_not_decide_a_type(
    values: list[str], positive: str, clicked: list[int], tmp_path: Path, read: Read
) -> None:
    found = read(rated(*values, folder=tmp_path), positive=positive)
    assert [int(row["clicked"]) for row in found.rows] == clicked


@pytest.mark.parametrize(
    "values",
    [
        *(["1", "", "0"], ["1.0", "", "0.0"], ["0.5", "", "0"], ["true", "", "false"]),
        *(["True", "", "False"], ["yes", "", "no"], ["Y", "NA", "N"], ["t", "", "f"]),
    ],
)
def test_labels_of_every_kind_follow_the_usual_rule(
    values: list[str], tmp_path: Path, read: Read
) -> None:
    found = read(rated(*values, folder=tmp_path, name="label"))
    assert [row["clicked"] for row in found.rows] == [True, False, False]


def test_missing_values_of_json_do_not_decide_a_type(tmp_path: Path, read: Read) -> None:
    rows = [
        {"user_id": "u", "item_id": "i", "domain": "d", "timestamp": 1_600_000_000, "rating": one}
        for one in (4.5, None, 3.0)
    ]
    csv(tmp_path / "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    found = read(tmp_path / "log.jsonl", positive="rating >= 4")
    assert [row["clicked"] for row in found.rows] == [True, False, False]


def test_not_a_number_is_no_click(read: Read) -> None:
    ratings = pa.array([5.0, float("nan"), None])
    found = read(table(rating=ratings), positive="rating >= 4")
    assert [row["clicked"] for row in found.rows] == [True, False, False]


@pytest.mark.parametrize("kept", ["csv", "parquet"])
def test_a_label_of_words_is_told_as_one(kept: str, tmp_path: Path) -> None:
    path = rated("view", "click", folder=tmp_path, name="label")
    if kept == "parquet":
        pd.read_csv(path).to_parquet(tmp_path / "log.parquet")
        path = tmp_path / "log.parquet"
    with pytest.raises(LogError, match="holds neither numbers nor true and false") as caught:
        validate_log(path)
    assert "data.positive, such as: label = 'click'" in str(caught.value.hint)
