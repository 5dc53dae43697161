"""Ids and times come back as they were; what cannot be read is set apart."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossfeed.config import DataConfig
from crossfeed.data.engines.duckdb_engine import open_duckdb
from crossfeed.data.inspect.quality import validate_log
from crossfeed.data.logs import Logs, open_log, read_log
from crossfeed.data.logs.places.files import HEAD_BYTES
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.errors import ConfigError, LogError, QuarantineError

FOLDERS = pytest.TempPathFactory
MOMENT = datetime(2020, 9, 13, 12, 26, 40, 250_000, tzinfo=UTC)
MOMENT_MS = 1_600_000_000_250


def log_of(**columns: object) -> pd.DataFrame:
    """Return a log of as many rows as the given columns have; the others are dull."""
    count = len(next(iter(columns.values())))  # type: ignore[call-overload]
    dull = {
        "user_id": [f"u{row}" for row in range(count)],
        "item_id": ["i"] * count,
        "domain": ["d"] * count,
        "timestamp": [1_600_000_000] * count,
    }
    return pd.DataFrame({**dull, **columns})


def write_csv(path: Path, log: pd.DataFrame) -> Path:
    log.to_csv(path, index=False)
    return path


def write_jsonl(path: Path, log: pd.DataFrame) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in log.to_dict("records")))
    return path


def write_parquet(path: Path, log: pd.DataFrame) -> Path:
    pq.write_table(pa.Table.from_pandas(log), path)
    return path


WRITERS = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}


def rows_of(logs: Logs, folder: Path, **config: object) -> list[dict[str, object]]:
    data = DataConfig.model_validate(config)
    with open_duckdb(folder / "scratch") as engine:
        rows = read_log(engine, open_log(logs, config=data), data).rows
        return engine.records(rows.order_by("file", "row"))


# Ids


TEXTS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\r\n", exclude_categories=("Cs",)),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize("format_", ["csv", "jsonl", "parquet"])
@given(ids=st.lists(TEXTS, min_size=1, max_size=20))
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_text_ids_come_back_unchanged(
    format_: str, ids: list[str], tmp_path_factory: FOLDERS
) -> None:
    folder = tmp_path_factory.mktemp("ids")
    ids = [*ids, "007"]  # In a CSV, ids that all look like integers would be integers.
    path = WRITERS[format_](folder / f"log.{format_}", log_of(item_id=ids))
    rows = rows_of(path, folder, missing_values=[])  # in a CSV, NA would be one
    assert [row["item_id"] for row in rows] == ids


@pytest.mark.parametrize("format_", ["csv", "jsonl", "parquet"])
@given(ids=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_integer_ids_come_back_unchanged(
    format_: str, ids: list[int], tmp_path_factory: FOLDERS
) -> None:
    folder = tmp_path_factory.mktemp("ids")
    path = WRITERS[format_](folder / f"log.{format_}", log_of(user_id=ids))
    assert [row["user_id"] for row in rows_of(path, folder)] == ids


@pytest.mark.parametrize("odd", ["007", "+7", "7.0", " 7", "7e2", "9223372036854775808", "-0"])
def test_one_id_that_is_no_plain_integer_makes_all_of_them_text(odd: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "log.csv", log_of(item_id=["7", odd, "8"]))
    assert [row["item_id"] for row in rows_of(path, tmp_path)] == ["7", odd, "8"]


def test_ids_keep_their_type_through_a_dataset(tmp_path: Path) -> None:
    users = [n % 4 for n in range(24)]
    log = log_of(user_id=users, item_id=[f"00{n % 6}" for n in range(24)])
    config = DataConfig(split="last-out", min_item_events=1, min_domain_events=1, repeats="keep")
    dataset = prepare(write_csv(tmp_path / "log.csv", log), out=tmp_path / "data", config=config)
    assert dataset.user_ids.to_pylist() == [0, 1, 2, 3]
    assert sorted(dataset.item_ids.to_pylist()) == [f"00{n}" for n in range(6)]
    assert dataset.manifest["log"]["user_ids"] == "integer"
    assert dataset.manifest["log"]["item_ids"] == "text"


def test_integers_that_pandas_made_floats_are_integers_again(
    read: Callable[..., object],
) -> None:
    result = read(log_of(user_id=[1.0, np.nan, 3.0]))
    assert [row["user_id"] for row in result.rows] == [1, 3]
    assert [(row["row"], row["reason"]) for row in result.quarantine] == [(2, "missing user_id")]


def test_categories_are_text(read: Callable[..., object]) -> None:
    log = log_of(item_id=["a", "b"]).astype({"item_id": "category", "domain": "category"})
    assert [row["item_id"] for row in read(log).rows] == ["a", "b"]


# Times


POSSIBLE = st.integers(631_152_000_000, int(time.time() * 1000))


@given(times=st.lists(POSSIBLE, min_size=1, max_size=20), offset=st.integers(-12 * 60, 14 * 60))
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_times_come_back_to_the_millisecond(
    times: list[int], offset: int, tmp_path_factory: FOLDERS
) -> None:
    folder = tmp_path_factory.mktemp("times")
    zone = timezone(timedelta(minutes=offset))
    moments = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms) for ms in times]
    written = {
        "ms": times,
        "text of ms": [str(ms) for ms in times],
        "seconds with a fraction": [ms / 1000 for ms in times],
        "ISO 8601 with an offset": [moment.astimezone(zone).isoformat() for moment in moments],
        "timestamps": pa.array(moments, pa.timestamp("ms", "UTC")),
        "nanoseconds": [ms * 1_000_000 for ms in times],
    }
    for way, values in written.items():
        table = pa.Table.from_pandas(log_of(user_id=times))
        table = table.set_column(3, "timestamp", pa.array(values))
        found = [row["time"] for row in rows_of(table, folder)]
        assert found == times, way


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (1_600_000_000, "s", 1_600_000_000_000),
        (1_600_000_000.25, "s", MOMENT_MS),
        (MOMENT_MS, "ms", MOMENT_MS),
        ("1600000000", "s", 1_600_000_000_000),
        ("2020-09-13T12:26:40.25Z", "iso", MOMENT_MS),
        ("2020-09-13 12:26:40.250", "iso", MOMENT_MS),
        ("2020-09-13T14:26:40.25+02:00", "iso", MOMENT_MS),
        ("2020-09-13", "iso", 1_599_955_200_000),
        (MOMENT.date(), "date", 1_599_955_200_000),
        (MOMENT.replace(tzinfo=None), "timestamp", MOMENT_MS),
        (MOMENT, "timestamp with time zone", MOMENT_MS),
    ],
)
def test_the_unit_of_times_is_detected_and_stated(
    value: object, unit: str, expected: int, read: Callable[..., object]
) -> None:
    table = pa.Table.from_pandas(log_of(user_id=["u"]))
    result = read(table.set_column(3, "timestamp", pa.array([value])))
    assert (result.rows[0]["time"], result.told.time_unit) == (expected, unit)


def test_a_unit_may_be_given(read: Callable[..., object]) -> None:
    result = read(
        log_of(timestamp=[1_000_000]), time_unit="s", time_range=["1970-01-01", "1971-01-01"]
    )
    assert result.rows[0]["time"] == 1_000_000_000
    with pytest.raises(LogError, match=r"none is within 1990-01-01 to .* as ms\n"):
        validate_log(log_of(timestamp=[1_600_000_000]), config=DataConfig(time_unit="ms"))


def test_numbers_are_no_text_of_times(read: Callable[..., object]) -> None:
    with pytest.raises(ConfigError, match=r"'iso' is for text, .* are BIGINT") as caught:
        read(log_of(user_id=["u"]), time_unit="iso")
    assert caught.value.hint == "numbers are s, ms, us or ns; auto detects the unit"


def test_times_in_no_known_unit() -> None:
    with pytest.raises(LogError, match=r"cannot be recognised: from 'soon' to 'yesterday'"):
        validate_log(log_of(timestamp=["yesterday", "soon"]), config=DataConfig())


def test_numbers_in_text_are_told_in_their_own_order(tmp_path: Path) -> None:
    """As words '99' would come behind '299'."""
    lines = [f"u,i{number},d,{number}" for number in range(300)]
    (tmp_path / "log.csv").write_text(
        "\n".join(["user_id,item_id,domain,timestamp", *lines]), "utf-8"
    )
    with pytest.raises(LogError, match="cannot be recognised: from '0' to '299'"):
        validate_log(tmp_path / "log.csv", config=DataConfig())


@pytest.mark.parametrize(
    ("range_", "message"),
    [
        (("then", "now"), "'then' is not an ISO 8601 time"),
        (("2020-01-01", "2019-01-01"), "ends before it begins"),
    ],
)
def test_impossible_time_ranges(range_: tuple[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_log(log_of(timestamp=[0]), config=DataConfig(time_range=range_))


# Clicks


@pytest.mark.parametrize("format_", [None, "csv", "jsonl", "parquet"])
def test_which_rows_are_clicks(
    format_: str | None, tmp_path: Path, read: Callable[..., object]
) -> None:
    log = log_of(label=[1, 0, 2, -1], rating=[3.5, 4.0, 5.0, 1.0], kind=["a", "b", "b", "c"])
    logs = log if format_ is None else WRITERS[format_](tmp_path / f"log.{format_}", log)
    expected = {
        None: [True, False, True, False],
        "true": [True, True, True, True],
        "rating >= 4": [False, True, True, False],
        "kind IN ('a', 'b') AND label > 0": [True, False, True, False],
        "user_id = 'u3'": [False, False, False, True],
    }
    for positive, clicked in expected.items():
        with open_duckdb(tmp_path / "other") as engine:
            config = DataConfig(positive=positive)
            told = read_log(engine, open_log(logs, config=config), config)
            assert [
                row["clicked"] for row in engine.records(told.rows.order_by("row"))
            ] == clicked, positive


@pytest.mark.parametrize("label", ["label", "liked"])
def test_labels_that_begin_late_in_a_file_count(label: str, tmp_path: Path) -> None:
    row = {"user_id": "u", "item_id": "i" * 1000, "domain": "d", "timestamp": 1_600_000_000}
    rows = [*[row] * 1_100, *[{**row, label: n % 2} for n in range(20)]]
    file = tmp_path / "log.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert file.stat().st_size > HEAD_BYTES
    config = DataConfig(columns={} if label == "label" else {"label": label})
    assert validate_log(file, config=config).clicks == 10


def test_neither_true_nor_false_is_not_a_click(read: Callable[..., object]) -> None:
    result = read(log_of(label=[1, None, 1]))
    assert [row["clicked"] for row in result.rows] == [True, False, True]


@pytest.mark.parametrize(
    ("positive", "message"),
    [
        ("rating >=", "is not valid"),
        ("stars >= 4", r"is not valid(.|\n)*over the log's columns: user_id, .*rating"),
        ("rating", "yields BIGINT, not true or false"),
        ("sum(rating) > 3", "is not valid"),
        ("true) OR (true", None),
    ],
)
def test_expressions_that_say_nothing_of_a_row(positive: str, message: str | None) -> None:
    log = log_of(rating=[3, 4])
    if message is None:  # Odd, but it says of each row whether it is a click.
        open_log(log, config=DataConfig(positive=positive))
        return
    with pytest.raises(ConfigError, match=message):
        open_log(log, config=DataConfig(positive=positive))


def test_an_expression_that_fails_on_a_value(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "log.csv", log_of(rating=["4", "good"]))
    with pytest.raises(ConfigError, match=r"data.positive = 'rating >= 4' (fails|is not valid)"):
        validate_log(path, config=DataConfig(positive="rating >= 4"))


# Rows that cannot be read


BAD_ROWS = {
    "missing user_id": {"user_id": ""},
    "missing item_id": {"item_id": ""},
    "missing domain": {"domain": ""},
    "missing timestamp": {"timestamp": ""},
    "unparsable timestamp": {"timestamp": "noon"},
    "impossible timestamp": {"timestamp": "1"},
}


@pytest.mark.parametrize("format_", ["csv", "jsonl", "parquet"])
def test_each_bad_row_is_set_apart_with_its_reason(
    format_: str, tmp_path: Path, read: Callable[..., object]
) -> None:
    log = log_of(timestamp=["1600000000"] * 13)
    for number, bad in enumerate(BAD_ROWS.values()):
        for column, value in bad.items():
            log.loc[2 * number + 1, column] = value
    path = WRITERS[format_](tmp_path / f"log.{format_}", log)
    result = read(path)
    assert [row["user_id"] for row in result.rows] == ["u0", "u2", "u4", "u6", "u8", "u10", "u12"]
    assert result.quarantine == [
        {"file": str(path), "row": 2 * number + 2, "reason": reason}
        for number, reason in enumerate(BAD_ROWS)
    ]


def test_nulls_are_missing(read: Callable[..., object]) -> None:
    log = log_of(user_id=["u", None, "v", "w"], domain=["d", "d", None, "d"])
    log["timestamp"] = [1_600_000_000, 1, 2, np.nan]
    result = read(log)
    reasons = [row["reason"] for row in result.quarantine]
    assert reasons == ["missing user_id", "missing domain", "missing timestamp"]


def test_a_day_ahead_is_possible_and_two_are_not(read: Callable[..., object]) -> None:
    now = int(time.time())
    result = read(log_of(timestamp=[now, now + 80_000, now + 180_000, 631_152_000, 631_151_999]))
    assert [row["row"] for row in result.quarantine] == [3, 5]


def test_malformed_rows_of_a_csv_keep_the_others_numbers(
    tmp_path: Path, read: Callable[..., object]
) -> None:
    lines = ["user_id,item_id,domain,timestamp", "u1,i,d,1600000000", "short,row"]
    lines += ["u3,i,d,1600000000,too,long", "u4,i,d,noon", 'u5,"two\nlines",d,1600000000']
    lines += ["u6,i,,1600000000", 'u7,"i"x,d,1600000000', "u8,i,d,1600000000"]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    result = read(tmp_path / "log.csv")
    assert [row["user_id"] for row in result.rows] == ["u1", "u5", "u8"]
    assert [(row["row"], row["reason"]) for row in result.quarantine] == [
        (2, "malformed row"),
        (3, "malformed row"),
        (4, "unparsable timestamp"),
        (6, "missing domain"),
        (7, "malformed row"),
    ]
    assert result.told.total == 8


def test_a_quote_that_swallows_rows_is_an_error(tmp_path: Path) -> None:
    rows = "".join(f"u{n},i,d,1600000000\n" for n in range(1000))
    path = tmp_path / "log.csv"
    path.write_text(f'user_id,item_id,domain,timestamp\nu,i,d,1600000000\nu,"i,d,1\n{rows}')
    with pytest.raises(LogError, match="has a quote that is not closed in row 2"):
        validate_log(path)


def test_line_endings_of_two_kinds_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"user_id,item_id,domain,timestamp\nu,i,d,1600000000\r\nv,i,d,1600000000\n")
    with pytest.raises(LogError, match=r"log\.csv' cannot be read(.|\n)*one kind of line ending"):
        validate_log(path)


def test_malformed_lines_of_jsonl(tmp_path: Path, read: Callable[..., object]) -> None:
    good = '{"user_id": "u", "item_id": 7, "domain": "d", "timestamp": 1600000000}'
    odd = '{"user_id": "u", "item_id": [7], "domain": "d", "timestamp": 1600000000}'
    (tmp_path / "log.jsonl").write_text("\n".join([good, '{"user_id": ', "[1]", odd, good]))
    result = read(tmp_path / "log.jsonl")
    assert [row["item_id"] for row in result.rows] == [7, 7]
    assert [(row["row"], row["reason"]) for row in result.quarantine] == [
        (2, "malformed row"),
        (3, "malformed row"),
        (4, "item_id is neither a string nor a 64-bit integer"),
    ]


def test_a_line_of_deep_json_is_a_row_without_values(
    tmp_path: Path, read: Callable[..., object]
) -> None:
    good = '{"user_id":"u","item_id":"i","domain":"d","timestamp":1600000000}\n'
    (tmp_path / "log.jsonl").write_text(good + '{"a":' + "[" * 10**5 + "]" * 10**5 + "}\n" + good)
    found = read(tmp_path / "log.jsonl")
    assert len(found.rows) == 2
    assert [row["reason"] for row in found.quarantine] == ["missing user_id"]


def test_too_many_bad_rows_stop_with_counts_per_reason(tmp_path: Path) -> None:
    log = log_of(timestamp=["1600000000"] * 17 + ["noon", "noon", "1"])
    path = write_csv(tmp_path / "log.csv", log)
    with pytest.raises(QuarantineError) as error:
        prepare(path, out=tmp_path / "data")
    message = str(error.value)
    assert "3 of 20 rows cannot be read, more than data.max_quarantine_share = 0.05" in message
    assert f"unparsable timestamp: 2 (first: {path}, row 18)" in message
    assert f"impossible timestamp: 1 (first: {path}, row 20)" in message
    assert not (tmp_path / "data").exists()
    assert validate_log(path, config=DataConfig(max_quarantine_share=0.15)).rows == 20


def test_the_quarantine_is_part_of_the_dataset(
    tmp_path: Path, prepared: Callable[..., object]
) -> None:
    log = log_of(user_id=[f"u{n % 5}" for n in range(40)], item_id=[f"i{n}" for n in range(40)])
    log.loc[7, "domain"] = None
    path = write_parquet(tmp_path / "log.parquet", log)
    dataset = prepared(path, split="last-out")
    found = pq.read_table(dataset.path / "quarantine.parquet").to_pylist()
    assert found == [{"file": str(path), "row": 8, "reason": "missing domain"}]
    assert dataset.manifest["log"]["quarantined"] == {"missing domain": 1}
    assert dataset.manifest["counts"]["events"] == 39
