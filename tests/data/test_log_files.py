"""Files of every kind are found, checked and read alike."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossfeed.config import DataConfig
from crossfeed.data.logs import Logs, open_log
from crossfeed.errors import ConfigError, LogError

TABLE = pa.table(
    {
        "user_id": ["anna", "ben", "anna"],
        "item_id": ["x", "y", "z"],
        "domain": ["books", "books", "films, old"],
        "timestamp": [1_600_000_000, 1_600_000_060, 1_600_000_120],
    }
)
ROWS = [
    {**row, "time": time * 1000, "clicked": True}
    for row, time in zip(
        TABLE.drop_columns(["timestamp"]).to_pylist(), TABLE["timestamp"].to_pylist(), strict=True
    )
]


def csv_text(delimiter: str = ",", newline: str = "\n") -> str:
    lines = [delimiter.join(TABLE.column_names)]
    lines += [delimiter.join(f'"{value}"' for value in row.values()) for row in TABLE.to_pylist()]
    return newline.join(lines) + newline


def jsonl_text() -> str:
    return "".join(json.dumps(row) + "\n" for row in TABLE.to_pylist())


def write(path: Path) -> Path:
    """Write the three rows in the format that the name promises."""
    if path.suffix == ".parquet":
        pq.write_table(TABLE, path)
        return path
    name = path.name.lower()
    text = csv_text("\t" if ".tsv" in name else ",") if "sv" in name else jsonl_text()
    data = text.encode()
    if name.endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    elif name.endswith(".zst"):
        data = pa.Codec("zstd").compress(data, asbytes=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "name",
    [
        *("log.parquet", "log.csv", "log.csv.gz", "log.CSV.GZ", "log.csv.zst", "log.tsv"),
        *("log.jsonl", "log.jsonl.gz", "log.jsonl.zst", "log.ndjson", "odd '[name]*.csv"),
    ],
)
def test_every_format_gives_the_same_rows(
    name: str, tmp_path: Path, read: Callable[..., object]
) -> None:
    result = read(write(tmp_path / name))
    assert result.rows == ROWS
    assert (result.told.total, result.told.time_unit, result.quarantine) == (3, "s", [])


@pytest.mark.parametrize("table", [TABLE, TABLE.to_pandas(), TABLE.to_pandas().convert_dtypes()])
def test_tables_in_memory_are_logs(table: Logs, read: Callable[..., object]) -> None:
    assert read(table).rows == ROWS


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(csv_text(newline="\r\n"), id="windows"),
        pytest.param("\ufeff" + csv_text(), id="byte order mark"),
        pytest.param(csv_text(";"), id="semicolons"),
        pytest.param(csv_text().rstrip("\n"), id="no last line ending"),
    ],
)
def test_dialects_of_csv(text: str, tmp_path: Path, read: Callable[..., object]) -> None:
    (tmp_path / "log.csv").write_bytes(text.encode())
    assert read(tmp_path / "log.csv").rows == ROWS


def test_a_folder_is_read_in_the_order_of_its_paths_without_hidden_files(
    tmp_path: Path, read: Callable[..., object]
) -> None:
    folder = tmp_path / "logs"
    (folder / "day=1").mkdir(parents=True)
    write(folder / "b.csv")
    write(folder / "day=1" / "c.csv.gz")
    write(folder / "a.csv")
    (folder / "_SUCCESS").touch()
    (folder / ".hidden.csv").write_text("nonsense")
    (folder / "notes.txt").write_text("not a log")
    opened = open_log(folder, config=DataConfig())
    names = [Path(input_.name).name for input_ in opened.inputs]
    assert names == ["a.csv", "b.csv", "c.csv.gz"]
    assert read(folder).rows == ROWS * 3


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet"])
def test_the_name_of_a_folder_is_no_value(
    name: str, tmp_path: Path, read: Callable[..., object]
) -> None:
    folder = tmp_path / "domain=export"
    folder.mkdir()
    assert read(write(folder / name)).rows == ROWS


def test_globs_and_several_paths(tmp_path: Path, read: Callable[..., object]) -> None:
    for name in ("a1.jsonl", "a2.jsonl", "b.jsonl"):
        write(tmp_path / name)
    assert read([str(tmp_path / "a*.jsonl"), tmp_path / "b.jsonl"]).rows == ROWS * 3


def test_columns_may_stand_in_another_order_in_another_file(
    tmp_path: Path, read: Callable[..., object]
) -> None:
    write(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("domain,timestamp,more,item_id,user_id\nd,1600000000,!,i,u\n")
    rows = read(tmp_path).rows
    assert rows[3] == {
        **{"user_id": "u", "item_id": "i", "domain": "d"},
        **{"time": 1_600_000_000_000, "clicked": True},
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.parquet", b"user_id,item_id\n", r"is named as Parquet, but its content is text"),
        ("log.csv", b"PAR1....", r"is named as CSV, but its content is Parquet"),
        (
            "log.csv",
            gzip.compress(b"user_id\n", mtime=0),
            r"is named as CSV, but its content is gzip",
        ),
        ("log.csv.gz", b"user_id\n", r"is named as gzip, but its content is text"),
        ("log.csv.zst", gzip.compress(b"a", mtime=0), r"is named as zstd, but its content is gzip"),
        ("log.csv", b'{"user_id": 1}\n', r"is named as CSV, but its content is JSON"),
        ("log.jsonl", b"user_id,item_id\n", r"its first line is not a JSON object"),
        ("log.jsonl", b'[{"user_id": 1}]', r"is one JSON array; JSONL has one object per line"),
        ("log.csv", b"user_id\0item_id", r"is named as CSV, but its content is binary"),
        ("log.csv", "user_id,item_id\n".encode("utf-16"), r"its content is text in UTF-16"),
        ("log.csv", b"PK\x03\x04", r"its content is a zip archive"),
        ("log.csv", b"", r"'.*log.csv' is empty"),
        ("log.csv", b"\n\n", r"'.*log.csv' is empty"),
        ("log.csv.gz", gzip.compress(b"", mtime=0), r"'.*log.csv.gz' is empty"),
        ("log.xlsx", b"x", r"is not a log by its name, which must end in \.parquet, \.csv"),
        (
            "log.csv",
            b"user_id,item_id,domain,domain\n",
            r"the column 'domain' occurs several times",
        ),
        ("log.csv", b"user_id,item_id,domain,timestamp\n", None),
    ],
)
def test_a_file_that_is_not_what_its_name_says(
    name: str, content: bytes, message: str | None, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    if message is None:  # The same check lets a proper file pass.
        open_log(tmp_path / name, config=DataConfig())
        return
    with pytest.raises(LogError, match=message):
        open_log(tmp_path / name, config=DataConfig())


@pytest.mark.parametrize("name", ["log.parquet", "log.csv.gz", "log.csv.zst", "log.jsonl.gz"])
def test_a_file_that_was_cut_short(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(LogError, match=r"is not complete (Parquet|gzip|zstd)"):
        open_log(path, config=DataConfig())


def test_all_bad_files_are_named_at_once(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        (tmp_path / name).write_text("nonsense")
    with pytest.raises(LogError, match=r"a\.parquet' is named(.|\n)*b\.parquet' is named"):
        open_log(tmp_path, config=DataConfig())


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    write(tmp_path / "log.csv")
    write(tmp_path / "log.jsonl")
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "readme.txt").touch()
    cases: dict[str, Logs] = {
        r"there is no file '.*none\.csv'": tmp_path / "none.csv",
        r"no file matches '.*\*\.parquet'": str(tmp_path / "*.parquet"),
        r"no file matches '.*empt\*'": str(tmp_path / "empt*"),
        r"the folder '.*empty' holds no log\nit holds nothing": tmp_path / "empty",
        r"the folder '.*texts' holds no log\n.* left out \(1\): readme\.txt": tmp_path / "texts",
        r"'.*log\.csv' is given twice": [tmp_path / "log.csv", str(tmp_path / "*.csv")],
        r"have one format; these are CSV \('.*log\.csv'\), JSONL": tmp_path,
        r"no log was given": [],
    }
    for message, logs in cases.items():
        with pytest.raises(LogError, match=message):
            open_log(logs, config=DataConfig())


def test_missing_columns_are_named_for_all_files_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user_id,thing\n")
    (tmp_path / "b.csv").write_text("item_id,domain\n")
    with pytest.raises(LogError) as error:
        open_log(tmp_path, config=DataConfig(split="last-out"))
    assert "a.csv' has no column 'item_id', 'domain'; it has: 'user_id', 'thing'" in str(
        error.value
    )
    assert "b.csv' has no column 'user_id'; it has: 'item_id', 'domain'" in str(error.value)
    assert "map other names with data.columns" in str(error.value)


def test_an_optional_column_must_be_in_all_files_or_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user_id,item_id,domain,timestamp\n")
    (tmp_path / "b.csv").write_text("user_id,item_id,domain\n")
    with pytest.raises(LogError, match=r"b\.csv' has no column 'timestamp', which other files"):
        open_log(tmp_path, config=DataConfig())


def test_a_mapped_column_must_exist_and_be_mapped_once() -> None:
    with pytest.raises(LogError, match=r"has no column 'uid' \(for user_id\)"):
        open_log(TABLE, config=DataConfig(columns={"user_id": "uid"}))
    with pytest.raises(LogError, match="'item_id' is mapped twice: as user_id and as item_id"):
        open_log(TABLE, config=DataConfig(columns={"user_id": "item_id"}))


def test_columns_of_other_names(read: Callable[..., object]) -> None:
    names = {"user_id": "uid", "item_id": "sku", "domain": "shop section", "timestamp": "when"}
    renamed = TABLE.rename_columns([names[name] for name in TABLE.column_names])
    assert read(renamed, columns=names).rows == ROWS


def test_without_times_only_the_last_out_split(read: Callable[..., object]) -> None:
    untimed = TABLE.drop_columns(["timestamp"])
    for split in ("temporal", "new-in-domain"):
        with pytest.raises(ConfigError, match=rf"data\.split = '{split}' needs times"):
            read(untimed, split=split)
    result = read(untimed, split="last-out")
    assert (result.told.time_unit, [row["time"] for row in result.rows]) == ("row order", [0, 1, 2])


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("user_id", [1.5, 2.5, 3.5], "numbers with fractions; ids are strings or integers"),
        ("user_id", [True, False, True], r"the column 'user_id' \(user_id\) is BOOLEAN"),
        ("item_id", [[1], [2], [3]], r"the column 'item_id' \(item_id\) is BIGINT\[\]"),
        ("timestamp", [True, False, True], r"the column 'timestamp' \(timestamp\) is BOOLEAN"),
    ],
)
def test_columns_of_impossible_types(
    column: str, values: list[object], message: str, read: Callable[..., object]
) -> None:
    table = TABLE.set_column(TABLE.column_names.index(column), column, pa.array(values))
    with pytest.raises(LogError, match=message):
        read(table)


def test_ids_of_two_types(tmp_path: Path, read: Callable[..., object]) -> None:
    mixed = TABLE.to_pandas().assign(user_id=pd.Series([1, "b", 3], dtype=object))
    with pytest.raises(LogError, match="the column 'user_id' has values of several types"):
        read(mixed)
    pq.write_table(TABLE, tmp_path / "a.parquet")
    numbers = TABLE.set_column(0, "user_id", pa.array([1, 2, 3]))
    pq.write_table(numbers, tmp_path / "b.parquet")
    with pytest.raises(
        LogError, match=r"\(user_id\) is BIGINT in .*b\.parquet' and VARCHAR in .*a"
    ):
        read(tmp_path)
    (tmp_path / "a.jsonl").write_text(jsonl_text() + jsonl_text().replace('"anna"', "7"))
    with pytest.raises(LogError, match="strings in 4 rows, integers in 2"):
        read(tmp_path / "a.jsonl")


def labelled(folder: Path, *labels: pa.Array) -> Path:
    for number, label in enumerate(labels):
        pq.write_table(TABLE.append_column("label", label), folder / f"{number}.parquet")
    return folder


@pytest.mark.parametrize("type_", [pa.int8(), pa.int64(), pa.float32(), pa.float64()])
def test_labels_of_two_numeric_types(
    type_: pa.DataType, tmp_path: Path, read: Callable[..., object]
) -> None:
    folder = labelled(tmp_path, pa.array([0, 1, 2], pa.int32()), pa.array([0, 1, None], type_))
    clicked = [row["clicked"] for row in read(folder).rows]
    assert clicked == [False, True, True, False, True, False]


def test_labels_of_types_that_do_not_go_together_are_named(
    tmp_path: Path, read: Callable[..., object]
) -> None:
    folder = labelled(tmp_path, pa.array([0, 1, 2]), pa.array(["0", "1", "x"]))
    message = r"'label' is BIGINT in '.*0\.parquet' and VARCHAR in '.*1\.parquet'"
    with pytest.raises(LogError, match=message):
        read(folder)
    assert len(read(folder, positive="try_cast(label AS DOUBLE) > 0").rows) == 6


def test_times_of_two_numeric_types(tmp_path: Path, read: Callable[..., object]) -> None:
    nanoseconds = 1_600_000_000_000_999_999  # a double would make the next millisecond of it
    for number, type_ in enumerate((pa.int64(), pa.float64())):
        times = pa.array([nanoseconds] * 3).cast(type_, safe=False)
        column = TABLE.column_names.index("timestamp")
        pq.write_table(TABLE.set_column(column, "timestamp", times), tmp_path / f"{number}.parquet")
    assert [row["time"] for row in read(tmp_path).rows][:3] == [1_600_000_000_000] * 3


def test_a_log_without_rows(tmp_path: Path, prepared: Callable[..., object]) -> None:
    with pytest.raises(LogError, match="the log has no rows: 'table in memory'"):
        prepared(TABLE.slice(0, 0))
    logs = tmp_path / "logs"
    logs.mkdir()
    for number in range(6):
        (logs / f"{number}.csv").write_text("user_id,item_id,domain,timestamp\n", "utf-8")
    with pytest.raises(LogError, match=r"has no rows: '.*/0.csv', .*'.*/4.csv', \.\.\.$"):
        prepared(logs)


def test_names_with_blanks_are_told_apart(tmp_path: Path, read: Callable[..., object]) -> None:
    (tmp_path / "log.csv").write_text("user_id ,item_id,domain\nu,i,d\n", "utf-8")
    with pytest.raises(LogError, match="'user_id'; it has: 'user_id ', 'item_id', 'domain'"):
        read(tmp_path / "log.csv", split="last-out")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{\n"user_id": "u",\n"item_id": "i"}\n', "no line at the beginning of '.*log.jsonl' is a"),
        ('[{"user_id": "u"}]', "is one JSON array; JSONL has one object per line"),
    ],
)
def test_json_that_is_not_one_object_per_line(
    text: str, told: str, tmp_path: Path, read: Callable[..., object]
) -> None:
    (tmp_path / "log.jsonl").write_text(text, "utf-8")
    with pytest.raises(LogError, match=told):
        read(tmp_path / "log.jsonl")


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ([{"user_id": "u"}], "this is a list of dict\nhint: .*pandas.DataFrame"),
        ([TABLE], "this is a list of Table"),
        ({"books": TABLE}, "not a mapping of them\nhint: put the tables together"),
    ],
)
def test_values_that_are_no_log(
    log: Any,  # Any: what a type checker would refuse
    told: str,
    prepared: Callable[..., object],
) -> None:
    with pytest.raises(LogError, match=told):
        prepared(log)
