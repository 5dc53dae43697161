"""Where the files of a log lie, and what of their paths and first lines counts."""

from __future__ import annotations

import gzip
import http.server
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossfeed.config import DataConfig
from crossfeed.data.inspect.quality import validate_log
from crossfeed.data.logs import open_log
from crossfeed.data.logs.places.finding import find_files
from crossfeed.data.logs.values.domains import domain_rule, hive_values
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.errors import ConfigError, LogError

Read = Callable[..., Any]  # Any: the ReadLog of conftest

HEAD = "user_id,item_id,domain,timestamp\n"
PLAIN = "user_id,item_id,timestamp\n"


def write(path: Path, *users: str, head: str = HEAD) -> Path:
    """Write a row of each user; the domain is books where the header names one."""
    domain = "books," if "domain" in head else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + "".join(f"{user},b1,{domain}1600000000\n" for user in users))
    return path


def names(found: Any) -> list[str]:
    return [row["user_id"] for row in found.rows]


# Domains that are no column


def test_folders_that_name_a_domain(tmp_path: Path, read: Read) -> None:
    write(tmp_path / "day=2020-09-13" / "domain=books" / "a.csv", "u1", head=PLAIN)
    write(tmp_path / "day=2020-09-14" / "domain=jazz%20%26%20soul" / "a.csv", "u2", head=PLAIN)
    write(tmp_path / "domain=__HIVE_DEFAULT_PARTITION__" / "a.csv", "u3", head=PLAIN)
    found = read(tmp_path, max_quarantine_share=1)
    assert [row["domain"] for row in found.rows] == ["books", "jazz & soul"]
    assert found.told.quarantined == {"missing domain": 1}
    [days] = {one.columns["day"] for one in open_log(tmp_path, config=DataConfig()).inputs[:1]}
    assert days == "VARCHAR"


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_any_column_may_be_named_by_folders(suffix: str, tmp_path: Path, read: Read) -> None:
    for year, domain in ((2019, "books"), (2020, "music")):
        folder = tmp_path / f"year={year}" / f"domain={domain}" / f"at={year}-01-01"
        path = write(folder / "part.csv", "u", head="user_id,item_id\n")
        table = pa.table({"user_id": ["u"], "item_id": ["i"]})
        if suffix != "csv":
            path.unlink()
        if suffix == "parquet":
            pq.write_table(table, folder / "part.parquet")
        elif suffix == "jsonl":
            (folder / "part.jsonl").write_text(json.dumps(table.to_pylist()[0]) + "\n")
        else:
            path.write_text("user_id,item_id\nu,i\n")
    found = read(tmp_path, columns={"timestamp": "at"}, positive="year >= 2020")
    assert [(row["domain"], row["clicked"], row["time"]) for row in found.rows] == [
        ("books", False, 1_546_300_800_000),
        ("music", True, 1_577_836_800_000),
    ]


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("{domain}.csv", ["books.csv", "music.csv"]),
        ("{domain}.*", ["books.csv.gz", "music.csv.gz"]),
        ("{domain}/*", ["books/1.csv", "music/1.csv"]),
        ("{domain}/*/*", ["books/2020/1.csv", "music/2021/1.csv"]),
        ("clicks_{domain}_*", ["clicks_books_2020_1.csv", "clicks_music_2020.csv"]),
        ("shop-{domain}/*.csv", ["shop-books/1.csv", "shop-music/1.csv"]),
    ],
)
def test_a_part_of_each_path_is_the_domain(
    pattern: str, paths: list[str], tmp_path: Path, read: Read
) -> None:
    for path in paths:
        file = write(tmp_path / path, "u", head=PLAIN)
        if path.endswith(".gz"):
            file.write_bytes(gzip.compress(file.read_bytes(), mtime=0))
    found = read(tmp_path, columns={"domain": pattern})
    assert sorted(row["domain"] for row in found.rows) == ["books", "music"]


def test_one_domain_for_the_whole_log(tmp_path: Path, read: Read) -> None:
    write(tmp_path / "a.csv", "u1", head=PLAIN)
    write(tmp_path / "b.csv", "u2")  # its own column has another one
    settings = {"columns": {"domain": "{constant:my shop}"}}
    assert {row["domain"] for row in read(tmp_path, **settings).rows} == {"my shop"}
    table = pa.table({"user_id": ["u"], "item_id": ["i"], "timestamp": [1_600_000_000]})
    assert [row["domain"] for row in read(table, **settings).rows] == ["my shop"]


@pytest.mark.parametrize("pattern", ["{file}", "{domain}/{domain}", "{constant:}", "{domain"])
def test_a_pattern_with_other_braces_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="is not a pattern"):
        domain_rule(pattern)


def test_files_that_do_not_fit_the_pattern_are_named(tmp_path: Path) -> None:
    write(tmp_path / "clicks_books.csv", "u", head=PLAIN)
    write(tmp_path / "other.csv", "u", head=PLAIN)
    config = DataConfig(columns={"domain": "clicks_{domain}.csv"})
    with pytest.raises(
        LogError, match=r"other\.csv' does not end as data\.columns\.domain"
    ) as told:
        open_log(tmp_path, config=config)
    assert "clicks_books.csv" not in told.value.message
    with pytest.raises(LogError, match="'table in memory' does not end as"):
        open_log(pa.table({"user_id": ["u"], "item_id": ["i"]}), config=config)


def test_without_a_domain_the_hint_names_the_ways(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="has no column 'domain'") as caught:
        open_log(write(tmp_path / "books.csv", "u", head=PLAIN), config=DataConfig())
    for way in ('"{domain}.csv"', '"{constant:books}"', "data.header"):
        assert way in str(caught.value.hint)


def test_what_folders_name() -> None:
    assert hive_values("/data/a=1/b=%2F/a=2/c=3.csv") == {"a": "2", "b": "/"}


def test_a_dataset_of_parquet_in_folders_is_that_of_the_column(
    tmp_path: Path, prepared: Callable[..., Any]
) -> None:
    rows = pa.table(
        {
            "user_id": [f"u{n % 7}" for n in range(60)],
            "item_id": [n % 11 for n in range(60)],
            "domain": ["books" if n % 2 else "music" for n in range(60)],
            "timestamp": [1_600_000_000 + n for n in range(60)],
        }
    )
    for number, domain in enumerate(("books", "music")):
        folder = tmp_path / "hive" / f"domain={domain}"
        folder.mkdir(parents=True)
        own = rows.filter(pa.compute.equal(rows["domain"], domain)).drop_columns(["domain"])
        pq.write_table(own, folder / f"{number}.parquet")
    hive = prepared(tmp_path / "hive", name="a", repeats="keep")
    plain = prepared(rows, name="b", repeats="keep")
    assert hive.manifest["content_hash"] == plain.manifest["content_hash"]


# Files without a header line


def test_names_for_a_file_without_a_header(tmp_path: Path, read: Read) -> None:
    (tmp_path / "log.csv").write_text("u1,b1,5,1600000000\nu2,b2,1,1600000000\nshort\n")
    header = ["user_id", "item_id", "rating", "timestamp"]
    columns = {"domain": "{constant:books}"}
    found = read(tmp_path / "log.csv", header=header, columns=columns, positive="rating > 3")
    assert [(row["user_id"], row["clicked"]) for row in found.rows] == [("u1", True), ("u2", False)]
    assert found.quarantine[0]["row"] == 3
    with pytest.raises(ConfigError, match=r"names 5 columns, and the first line .* has 4"):
        read(tmp_path / "log.csv", header=[*header, "more"], columns=columns)


def test_columns_behind_the_named_ones_are_left_out(tmp_path: Path, read: Read) -> None:
    (tmp_path / "log.tsv").write_text("u1\tb1\tbooks\t1600000000\tmore\t\n")
    found = read(tmp_path / "log.tsv", header=["user_id", "item_id", "domain", "timestamp"])
    assert names(found) == ["u1"]


def test_a_header_is_for_csv(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user_id": [1]}), tmp_path / "log.parquet")
    with pytest.raises(ConfigError, match=r"data\.header is for CSV, and .* is Parquet"):
        open_log(tmp_path, config=DataConfig(header=("user_id",)))


# Before the first row


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("before", ["", "{0}", "{0}{0}", "  {0}\t{0}", "\ufeff", "\ufeff{0}{0}"])
def test_lines_before_the_header(before: str, ending: str, tmp_path: Path, read: Read) -> None:
    lines = ["user_id,item_id,domain", "u1,b1,books", "short", "u2,,books", "u3,b3,books", ""]
    text = before.format(ending) + ending.join(lines)
    (tmp_path / "log.csv").write_bytes(text.encode())
    found = read(tmp_path / "log.csv", split="last-out")
    assert names(found) == ["u1", "u3"]
    reasons = [(row["row"], row["reason"]) for row in found.quarantine]
    assert reasons == [(2, "malformed row"), (3, "missing item_id")]


@pytest.mark.parametrize("packed", [False, True])
def test_a_mark_before_json(packed: bool, tmp_path: Path, read: Read) -> None:
    row = {"user_id": 'é,"u', "item_id": "i", "domain": "d", "timestamp": 1_600_000_000}
    lines = [json.dumps(row, ensure_ascii=False), '{"user_id": ', json.dumps(row)]
    data = ("\ufeff" + "\n".join(lines) + "\n").encode()
    path = tmp_path / ("log.jsonl.gz" if packed else "log.jsonl")
    path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    found = read(path)
    assert names(found) == [row["user_id"]] * 2
    assert [one["row"] for one in found.quarantine] == [2]


# Encodings


@pytest.mark.parametrize(
    ("encoding", "told"),
    [("latin-1", "ISO-8859-1"), ("cp1252", "WINDOWS-1252")],
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_another_encoding_is_named(encoding: str, told: str, suffix: str, tmp_path: Path) -> None:
    name = "Bücher" if encoding == "latin-1" else "“Bücher”"
    rows = [{"user_id": f"u{n}", "item_id": "i", "domain": name, "timestamp": 1} for n in range(9)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    if suffix == "csv":
        lines = [HEAD.strip(), *(",".join(map(str, row.values())) for row in rows)]
    path = tmp_path / f"log.{suffix}"
    path.write_bytes("\n".join(lines).encode(encoding))
    with pytest.raises(LogError, match="9 of 9 rows cannot be read") as caught:
        validate_log(path)
    assert f"is not UTF-8; it looks like {told}: iconv -f {told} -t UTF-8" in str(caught.value.hint)
    if suffix == "csv":
        assert "not UTF-8: 9 (first: " in caught.value.message


def test_one_row_in_another_encoding_is_told_by_validate(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", *(f"u{n}" for n in range(40)))
    path.write_bytes(path.read_bytes() + "u,café,books,1600000000\n".encode("latin-1"))
    report = validate_log(path)
    assert report.quarantined == {"not UTF-8": 1}
    assert f"'{path}' is not UTF-8; it looks like ISO-8859-1" in report.warnings


# Files without rows


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("empty", ["no bytes", "no rows"])
def test_files_without_rows_are_left_out(
    empty: str, suffix: str, tmp_path: Path, read: Read
) -> None:
    table = pa.table(
        {"user_id": ["u"], "item_id": ["i"], "domain": ["d"], "timestamp": [1_600_000_000]}
    )
    full, hollow = tmp_path / f"1.{suffix}", tmp_path / f"2.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, full)
        types = [pa.null(), pa.float64(), pa.null(), pa.string()]
        columns = {n: pa.array([], t) for n, t in zip(table.column_names, types, strict=True)}
        pq.write_table(pa.table(columns), hollow)
    else:
        full.write_text(
            table.to_pandas().to_csv(index=False)
            if suffix == "csv"
            else json.dumps(table.to_pylist()[0]) + "\n"
        )
        hollow.write_text("user_id,other\n\n" if suffix == "csv" else "\n")
    if empty == "no bytes":
        hollow.write_bytes(b"")
    assert names(read(tmp_path)) == ["u"]
    assert f"'{hollow}' is left out: it has no rows" in validate_log(tmp_path).warnings


def test_a_log_of_empty_files_alone_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a.csv")
    write(tmp_path / "b.csv")
    with pytest.raises(LogError, match="the log has no rows"):
        validate_log(tmp_path)
    (tmp_path / "a.csv").write_text("")
    (tmp_path / "b.csv").write_text("")
    with pytest.raises(LogError, match=r"a\.csv' is empty\n.*b\.csv' is empty"):
        validate_log(tmp_path)


# Links


def test_linked_folders_and_files_are_read_once(tmp_path: Path, read: Read) -> None:
    write(tmp_path / "logs" / "new.csv", "u1")
    write(tmp_path / "archive" / "2020" / "old.csv", "u2")
    write(tmp_path / "elsewhere.csv", "u3")
    (tmp_path / "logs" / "archive").symlink_to("../archive")
    (tmp_path / "logs" / "again").symlink_to("../archive/2020")
    (tmp_path / "logs" / "one.csv").symlink_to("../elsewhere.csv")
    assert sorted(names(read(tmp_path / "logs"))) == ["u1", "u2", "u3"]
    assert sorted(names(read(str(tmp_path / "logs" / "**" / "*.csv")))) == ["u1", "u2", "u3"]
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a").symlink_to("../archive")
    assert names(read(tmp_path / "only")) == ["u2"]


def test_links_that_lead_back_are_not_followed(tmp_path: Path, read: Read) -> None:
    write(tmp_path / "shop" / "other" / "log.csv", "u9")
    write(tmp_path / "shop" / "logs" / "a" / "log.csv", "u1")
    (tmp_path / "shop" / "logs" / "a" / "up").symlink_to("../..")
    (tmp_path / "shop" / "logs" / "a" / "self").symlink_to(".")
    (tmp_path / "shop" / "logs" / "b").symlink_to("a")
    assert names(read(tmp_path / "shop" / "logs")) == ["u1"]
    assert names(read(str(tmp_path / "shop" / "logs" / "**" / "*.csv"))) == ["u1"]
    [note] = [n for n in find_files([tmp_path / "shop" / "logs"]).notes if "up'" in n]
    assert note.endswith("it links to a folder that holds it")


@pytest.mark.parametrize("name", ["gone.csv", "archive"])
def test_links_to_nothing_are_an_error(name: str, tmp_path: Path) -> None:
    write(tmp_path / "log.csv", "u1")
    (tmp_path / name).symlink_to("/no/such/place")
    message = rf"lead to nothing: '.*{name}' -> '/no/such/place'"
    for given in (tmp_path, str(tmp_path / "*")):
        with pytest.raises(LogError, match=message):
            find_files([given])
    with pytest.raises(LogError, match="it is a link to nothing"):
        find_files([tmp_path / name])


def test_folders_that_a_glob_matches_are_read(tmp_path: Path, read: Read) -> None:
    write(tmp_path / "domain=books" / "a.csv", "u1", head=PLAIN)
    write(tmp_path / "domain=music" / "a.csv", "u2", head=PLAIN)
    (tmp_path / "domain=none").mkdir()
    found = read(str(tmp_path / "domain=*"))
    assert [(row["user_id"], row["domain"]) for row in found.rows] == [
        ("u1", "books"),
        ("u2", "music"),
    ]


def test_what_a_folder_leaves_out_is_told(tmp_path: Path) -> None:
    write(tmp_path / "log.csv", "u1")
    (tmp_path / "more.json").write_text("{}")
    [note] = find_files([tmp_path]).notes
    assert note.endswith("no logs by their names are left out (1): more.json")


# Our own output among the logs

OWN = {"manifest.json": "a dataset", "config.json": "a run", "bundle.json": "a bundle"}


@pytest.mark.parametrize(("mark", "kind"), OWN.items())
def test_our_own_output_is_no_log(mark: str, kind: str, tmp_path: Path, read: Read) -> None:
    logs = tmp_path / "logs"
    write(logs / "log.csv", "u1")
    own = logs / "own"
    write(own / "metrics.csv", "u2")
    (own / mark).write_text(json.dumps({"format_version": 1, "crossfeed": "0.1"}))
    write(logs / ".own.0a1b2c3d.tmp" / "metrics.csv", "u3")
    assert names(read(logs)) == ["u1"]
    assert find_files([logs]).notes == (f"'{own}' is left out: it is {kind} that crossfeed wrote",)
    assert names(read(str(logs / "**" / "*.csv"))) == ["u1"]
    assert names(read(str(logs / "*"))) == ["u1"]
    for given in (own, own / "metrics.csv", str(own / "*.csv")):
        with pytest.raises(LogError, match=f"is (left out: it is )?(part of )?{kind}"):
            find_files([given])


def test_a_folder_of_the_same_file_names_is_a_log(tmp_path: Path, read: Read) -> None:
    write(tmp_path / "site" / "log.csv", "u1")
    (tmp_path / "site" / "manifest.json").write_text('{"name": "a web page"}')
    assert names(read(tmp_path)) == ["u1"]


def test_a_dataset_may_lie_among_its_logs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [f"u{u},b{i},books,{1_600_000_000 + 60 * u + i}" for u in range(9) for i in range(4)]
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "log.csv").write_text(HEAD + "\n".join(lines) + "\n")
    config = DataConfig(split="last-out", min_item_events=1, min_domain_events=1)
    first = prepare(folder, out=folder / "ds", config=config)
    caplog.set_level(logging.WARNING)
    again = prepare(folder, out=folder / "ds", config=config, overwrite=True)
    assert again.manifest["content_hash"] == first.manifest["content_hash"]
    assert "ds' is left out: it is a dataset that crossfeed wrote" in caplog.text


# URLs of files


def test_a_url_of_this_machine(tmp_path: Path, read: Read) -> None:
    path = write(tmp_path / "my logs" / "log.csv", "u1")
    assert names(read(path.as_uri())) == ["u1"]
    assert names(read(f"file://localhost{tmp_path}/my%20logs")) == ["u1"]
    assert names(read(f"file://{tmp_path}/my%20logs/*.csv")) == ["u1"]
    with pytest.raises(LogError, match="'data'") as caught:
        find_files(["file://data/log.csv"])
    assert "three slashes: file:///data/log.csv" in str(caught.value.hint)


@pytest.mark.parametrize("path", ["", "  "])
def test_an_empty_path_is_not_the_working_directory(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Read
) -> None:
    write(tmp_path / "log.csv", "u1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LogError, match="a path is empty") as caught:
        find_files([path])
    assert "is a variable of the shell unset?" in str(caught.value.hint)
    assert names(read(".")) == ["u1"]


@pytest.fixture
def bucket() -> Iterator[Any]:
    """Yield a store of fsspec that is in memory, with a log in it."""
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.pipe("/bucket/domain=books/a.csv", (PLAIN + "u1,b1,1600000000\n").encode())
    store.pipe("/bucket/domain=music/b.csv", (PLAIN + "u2,b1,1600000000\n").encode())
    store.pipe("/bucket/_SUCCESS", b"")
    store.pipe("/bucket/.hidden/a.csv", b"nothing")
    yield store
    store.rm("/bucket", recursive=True)


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    ("url", "users"),
    [
        ("memory://bucket", ["u1", "u2"]),
        ("memory://bucket/domain=*/*.csv", ["u1", "u2"]),
        ("memory://bucket/domain=music/b.csv", ["u2"]),
    ],
)
def test_a_log_of_an_object_store(url: str, users: list[str], read: Read) -> None:
    found = read(url)
    assert names(found) == users
    domains = {"u1": "books", "u2": "music"}
    assert [row["domain"] for row in found.rows] == [domains[user] for user in users]


@pytest.mark.usefixtures("bucket")
def test_copies_go_with_their_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    log = open_log("memory://bucket", config=DataConfig())
    assert [one.name for one in log.inputs] == [
        "memory:///bucket/domain=books/a.csv",
        "memory:///bucket/domain=music/b.csv",
    ]
    assert len(list(tmp_path.iterdir())) == 1
    del log
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("path", ["none.csv", "none/*.csv", "none"])
def test_what_a_store_has_not(path: str) -> None:
    with pytest.raises(LogError, match=f"memory://bucket/{path}".replace("*", r"\*")):
        find_files([f"memory://bucket/{path}"])


@pytest.mark.parametrize(
    ("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("abfs", "adlfs")]
)
def test_a_store_without_its_package(
    scheme: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(LogError, match=f"{scheme}:// needs packages that are not") as caught:
        find_files([f"{scheme}://bucket/clicks.parquet"])
    assert str(caught.value.hint).startswith(f"pip install fsspec {package}; or copy the files")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """Yield the address of a server of files, which asks for a password below /secret/."""
    write(tmp_path / "www" / "books.csv", "u1", head=PLAIN)
    write(tmp_path / "www" / "secret" / "books.csv", "u2", head=PLAIN)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(tmp_path / "www"))

        def do_GET(self) -> None:
            allowed = self.headers.get("Authorization") == "Basic bWU6czNjcmV0"  # me:s3cret
            if self.path.startswith("/secret/") and not allowed:
                self.send_error(401)
            elif self.path.startswith("/short"):
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"user_id")
            else:
                super().do_GET()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_file_of_the_web(web: str, read: Read) -> None:
    assert urlopen(f"{web}/books.csv").read().startswith(b"user_id")
    settings = {"columns": {"domain": "{domain}.csv"}}
    found = read(f"{web}/books.csv?signature=abc", **settings)
    assert [(row["user_id"], row["domain"]) for row in found.rows] == [("u1", "books")]
    [input_] = open_log(f"{web}/books.csv?signature=abc", config=DataConfig(**settings)).inputs
    assert input_.name == f"{web}/books.csv"
    secret = web.replace("://", "://me:s3cret@")
    assert names(read(f"{secret}/secret/books.csv", **settings)) == ["u2"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none.csv", "HTTP Error 404"),
        ("secret/books.csv", "HTTP Error 401"),
        ("short.csv", "7 of 1000 bytes came"),
        ("books.html", "404"),
    ],
)
def test_what_the_web_does_not_give(path: str, message: str, web: str) -> None:
    with pytest.raises(LogError, match=message) as caught:
        find_files([f"{web.replace('://', '://me:wr0ng@')}/{path}?token=t0ken"])
    assert f"'{web}/{path}'" in str(caught.value)
    assert "wr0ng" not in str(caught.value) and "t0ken" not in str(caught.value)


def test_a_url_of_no_kind_is_told_what_there_is() -> None:
    with pytest.raises(LogError, match="foo:// is neither a database nor a place of files"):
        open_log("foo://host/x?table=t", config=DataConfig())


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    write(tmp_path / "log.csv", "u1")
    (tmp_path / "closed").mkdir(mode=0)
    if os.access(tmp_path / "closed", os.R_OK):
        pytest.skip("the superuser may read everything")
    with pytest.raises(LogError, match=r"closed' cannot be read: Permission denied"):
        find_files([tmp_path])
