"""Logs that are tables: of a real Postgres server, of files of databases, of Spark."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.dirt import dirty_log
from postgres_server import PASSWORD, PostgresServer, postgres

from crossfeed.cli import app
from crossfeed.config import DataConfig
from crossfeed.data.dataset import Dataset
from crossfeed.data.logs.places import databases
from crossfeed.data.logs.places.spark_tables import spark_table
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.errors import LogError, MissingExtraError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["postgres"]

DIRTY = {"positive": "rating >= 2", "max_quarantine_share": 0.5}
"""With the other settings of `prepared`."""


def fill(server: PostgresServer, table: str, log: pd.DataFrame, types: str) -> None:
    """Make a table of a log."""
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS {table}")
        cursor.execute(f"CREATE TABLE {table} ({types})")
        with cursor.copy(f"COPY {table} FROM STDIN") as copy:
            for row in log.astype(object).where(log.notna(), None).itertuples(index=False):
                copy.write_row(row)


TYPES = "user_id text, item_id bigint, domain text, timestamp bigint, rating smallint"


@pytest.fixture
def clicks(postgres: PostgresServer) -> pd.DataFrame:
    """Return a dirty log that is the table `clicks`."""
    log = dirty_log(rows=1500)
    fill(postgres, "clicks", log, TYPES)
    return log


@pytest.mark.usefixtures("clicks")
def test_a_table_gives_the_dataset_of_its_rows(
    postgres: PostgresServer, clicks: pd.DataFrame, prepared: Callable[..., Dataset]
) -> None:
    table = prepared(postgres.url("clicks"), name="table", **DIRTY)
    memory = prepared(pa.Table.from_pandas(clicks, preserve_index=False), name="memory", **DIRTY)
    assert table.manifest["content_hash"] == memory.manifest["content_hash"]
    assert table.manifest["log"] == memory.manifest["log"]
    rows = [pq.read_table(one.path / "quarantine.parquet") for one in (table, memory)]
    assert rows[0].drop("file").equals(rows[1].drop("file"))
    assert rows[0].num_rows > 30


def test_types_of_postgres(postgres: PostgresServer, prepared: Callable[..., Dataset]) -> None:
    users = [f"00000000-0000-0000-0000-{number:012}" for number in range(4)]
    log = pd.DataFrame(
        {
            "who": users * 5,
            "what": [f"i{number % 5}" for number in range(20)],
            "place": "книги",
            "at": [f"2021-03-{number + 1:02} 12:00:00+01" for number in range(20)],
            "more": json.dumps({"a": 1}),
        }
    )
    fill(postgres, "typed", log, "who uuid, what text, place text, at timestamptz, more jsonb")
    names = {"user_id": "who", "item_id": "what", "domain": "place", "timestamp": "at"}
    dataset = prepared(postgres.url("public.typed"), columns=names, split="last-out")
    assert dataset.user_ids.to_pylist() == users
    assert int(dataset.event_time.min()) == 1614596400000  # 11:00 UTC


def test_what_is_written_meanwhile_is_not_seen(
    postgres: PostgresServer, prepared: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = dirty_log(rows=1500).dropna()
    fill(postgres, "busy", log, TYPES)
    before = prepared(postgres.url("busy"), name="before", **DIRTY)
    monkeypatch.setattr(databases, "_BATCH_ROWS", 50)
    from_arrow = pa.RecordBatch.from_struct_array
    written: list[int] = []

    class Busy:
        """Writes to the table each time that a batch has been read from it."""

        @staticmethod
        def from_struct_array(array: pa.StructArray) -> pa.RecordBatch:
            with postgres.connect() as connection:
                connection.execute("INSERT INTO busy VALUES ('new', 1, 'books', 1600000000, 5)")
                connection.execute("DELETE FROM busy WHERE item_id = 3")
            written.append(len(array))
            return from_arrow(array)

    monkeypatch.setattr(pa, "RecordBatch", Busy)
    busy = prepared(postgres.url("busy"), name="busy", **DIRTY)
    assert len(written) > 10 and max(written) == 50
    assert busy.manifest["content_hash"] == before.manifest["content_hash"]


def test_a_server_that_ends_meanwhile_is_one_clear_error(
    postgres: PostgresServer,
    prepared: Callable[..., Dataset],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    fill(postgres, "cut", dirty_log(rows=1500), TYPES)
    monkeypatch.setattr(databases, "_BATCH_ROWS", 50)
    from_arrow = pa.RecordBatch.from_struct_array

    class Cut:
        """Ends all other connections as soon as a batch has been read."""

        @staticmethod
        def from_struct_array(array: pa.StructArray) -> pa.RecordBatch:
            with postgres.connect() as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND datname = 'shop'"
                )
            return from_arrow(array)

    monkeypatch.setattr(pa, "RecordBatch", Cut)
    with pytest.raises(LogError, match=r"\?table=cut' cannot be read: (.|\n)*terminat") as caught:
        prepared(postgres.url("cut"), **DIRTY)
    assert PASSWORD not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("clicks")
def test_the_password_is_shown_nowhere(
    postgres: PostgresServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    config = DataConfig.model_validate({**DIRTY, "min_domain_events": 1})
    prepare(postgres.url("clicks"), out=tmp_path / "dataset", config=config)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (PASSWORD, PASSWORD.replace("/", "%2F").replace(":", "%3A")):
        assert secret.encode() not in written and secret not in caplog.text
    [name] = {input_["name"] for input_ in Dataset.load(tmp_path / "dataset").manifest["inputs"]}
    assert name == f"postgres://crossfeed@127.0.0.1:{postgres.port}/shop?table=clicks"


@pytest.mark.usefixtures("clicks")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"password": "wr0ng"}, "password authentication failed"),
        ({"table": "click"}, "the database has no table 'click'"),
        ({"database": "shopp"}, 'database "shopp" does not exist'),
        ({"table": ""}, "names no table"),
    ],
)
def test_what_cannot_be_read_is_told_without_secrets(
    change: dict[str, str], message: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    url = postgres.url(**{"table": "clicks", **change})
    with pytest.raises(LogError, match=message) as caught:
        prepare(url, out=tmp_path / "dataset")
    for secret in (PASSWORD, "wr0ng", "s3cret"):
        assert secret not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_table_without_times_is_refused(postgres: PostgresServer, tmp_path: Path) -> None:
    log = dirty_log(rows=20)[["user_id", "item_id", "domain"]]
    fill(postgres, "untimed", log, "user_id text, item_id bigint, domain text")
    config = DataConfig(split="last-out")
    with pytest.raises(LogError, match="rows of a database's table have no order"):
        prepare(postgres.url("untimed"), out=tmp_path / "dataset", config=config)


@pytest.mark.usefixtures("clicks")
def test_validate_reads_a_table(postgres: PostgresServer) -> None:
    from typer.testing import CliRunner

    settings = ["--set", "data.max_quarantine_share=0.5"]
    result = CliRunner().invoke(app, ["validate", postgres.url("clicks"), *settings])
    assert result.exit_code == 0, result.output
    assert "фильмы" in result.output and PASSWORD not in result.output


# Without a server


def in_duckdb(file: Path, log: pd.DataFrame) -> None:
    with duckdb.connect(file) as connection:
        connection.execute("CREATE SCHEMA web")
        connection.execute("CREATE TABLE web.clicks AS SELECT * FROM log")


def in_sqlite(file: Path, log: pd.DataFrame) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        log.to_sql("clicks", connection, index=False)


@pytest.mark.parametrize(
    ("write", "url"),
    [(in_duckdb, "duckdb://{}?table=web.clicks"), (in_sqlite, "sqlite://{}?table=clicks")],
)
def test_a_file_of_a_database_gives_the_dataset_of_its_rows(
    write: Callable[[Path, pd.DataFrame], None],
    url: str,
    prepared: Callable[..., Dataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(databases, "_BATCH_ROWS", 100)
    log = dirty_log(rows=1500)
    write(tmp_path / "shop@home.db", log)
    table = prepared(url.format(tmp_path / "shop@home.db"), name="table", **DIRTY)
    memory = prepared(pa.Table.from_pandas(log, preserve_index=False), name="memory", **DIRTY)
    assert table.manifest["content_hash"] == memory.manifest["content_hash"]
    assert table.manifest["log"] == memory.manifest["log"]


def test_sqlite_s_times_are_text(prepared: Callable[..., Dataset], tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.execute("CREATE TABLE clicks (user_id, item_id TEXT, domain TEXT, at TIMESTAMP)")
        rows = [
            (f"u{number % 4}", f"i{number % 5}", "books", f"2021-03-{number + 1:02} 12:00:00")
            for number in range(20)
        ]
        connection.executemany("INSERT INTO clicks VALUES (?, ?, ?, ?)", rows)
        connection.commit()
    url = f"sqlite://{tmp_path / 'shop.db'}?table=clicks"
    dataset = prepared(url, columns={"timestamp": "at"}, split="last-out")
    assert int(dataset.event_time.min()) == 1614600000000


def test_a_value_of_another_type_than_its_column_s_is_told(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.execute("CREATE TABLE t (user_id, item_id INTEGER, domain, timestamp INTEGER)")
        connection.execute("INSERT INTO t VALUES ('u', 'no number', 'books', 1600000000)")
        connection.commit()
    with pytest.raises(LogError, match=r"shop.db\?table=t' cannot be read: (.|\n)*no number"):
        prepare(f"sqlite://{tmp_path / 'shop.db'}?table=t", out=tmp_path / "dataset")


@pytest.mark.parametrize("scheme", ["duckdb", "sqlite"])
def test_a_missing_file_of_a_database_is_not_made(scheme: str, tmp_path: Path) -> None:
    with pytest.raises(LogError, match="there is no file"):
        prepare(f"{scheme}://{tmp_path / 'shop.db'}?table=t", out=tmp_path / "dataset")
    assert list(tmp_path.iterdir()) == []


def test_an_engine_in_memory_stores_no_table(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="names no stored table: polars works in memory") as caught:
        prepare("polars://?table=t", out=tmp_path / "dataset")
    assert "write it as Parquet" in str(caught.value.hint)


# Spark's tables


@pytest.fixture
def spark_clicks(spark: SparkSession, tmp_path: Path) -> Iterator[pd.DataFrame]:
    """Yield a dirty log that is the view `clicks`, in several files."""
    log = dirty_log(rows=1500)
    log.to_parquet(tmp_path / "log.parquet")
    spark.read.parquet(str(tmp_path / "log.parquet")).createOrReplaceTempView("clicks")
    yield log
    spark.catalog.dropTempView("clicks")


@pytest.mark.parametrize("engine", ["duckdb", "spark"])
def test_a_table_of_spark_gives_the_dataset_of_its_rows(
    engine: str, spark_clicks: pd.DataFrame, prepared: Callable[..., Dataset]
) -> None:
    table = prepared("spark://?table=clicks", name="table", engine=engine, **DIRTY)
    memory = prepared(
        pa.Table.from_pandas(spark_clicks, preserve_index=False), name="memory", **DIRTY
    )
    assert table.manifest["content_hash"] == memory.manifest["content_hash"]
    assert table.manifest["log"] == memory.manifest["log"]
    assert table.manifest["inputs"] == [{"name": "spark://?table=clicks", "size": 0}]
    rows = [pq.read_table(one.path / "quarantine.parquet") for one in (table, memory)]
    assert rows[0].drop("file").equals(rows[1].drop("file"))


def test_types_of_spark(spark: SparkSession, prepared: Callable[..., Dataset]) -> None:
    spark.sql(
        "SELECT concat('u', id % 4) AS `who is it`, id % 5 AS item_id, 'книги' AS domain, "
        "timestamp '2021-03-01 12:00:00+01:00' + make_interval(0, 0, 0, id) AS timestamp, "
        "map('a', 1) AS more FROM range(20)"
    ).createOrReplaceTempView("typed")
    names = {"user_id": "who is it"}
    dataset = prepared("spark://?table=typed", columns=names, split="last-out")
    assert dataset.user_ids.to_pylist() == ["u0", "u1", "u2", "u3"]
    assert int(dataset.event_time.min()) == 1614596400000  # 11:00 UTC


@pytest.mark.usefixtures("spark")
def test_what_spark_has_not_is_told(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"spark://\?table=no_such' cannot be read: .*no_such"):
        prepare("spark://?table=no_such", out=tmp_path / "dataset")
    with pytest.raises(LogError, match="names no table") as caught:
        prepare("spark://host:7077", out=tmp_path / "dataset")
    assert caught.value.hint == "spark://host:7077?table=schema.clicks"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "master"),
    [
        ("spark://host:7077?table=s.t", "spark://host:7077"),
        ("spark://me:s3cret@host:7077?table=s.t&token=t0ken", "spark://host:7077"),
        ("spark://yarn?table=s.t", "yarn"),
        ("spark://?table=s.t", None),
    ],
)
def test_the_master_of_a_url(url: str, master: str | None) -> None:
    table = spark_table(url)
    assert (table.master, table.table) == (master, "s.t")
    assert "s3cret" not in repr(table) and "t0ken" not in repr(table)


# Any of them


def test_two_tables_are_not_one_log(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="a log of its own"):
        prepare(["postgres://a/b?table=c", "postgres://a/b?table=d"], out=tmp_path / "dataset")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_without_its_own_driver_the_extra_is_told(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.startswith("ibis.backends.postgres")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match="'psycopg', which is not installed"):
        prepare(f"{scheme}://me:p@127.0.0.1:1/b?table=c", out=tmp_path / "dataset")


@pytest.mark.parametrize(
    ("scheme", "module"), [("mysql", "MySQLdb"), ("trino", "trino"), ("snowflake", "snowflake")]
)
def test_without_another_driver_the_install_command_is_told(
    scheme: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(LogError, match=f"{scheme}://me@127") as caught:
        prepare(f"{scheme}://me:p@127.0.0.1:1/b?table=c", out=tmp_path / "dataset")
    assert re.search(
        rf"needs the package '{module}\b.*', which is not installed", caught.value.message
    )
    assert caught.value.hint == f"pip install 'ibis-framework[{scheme}]'"


@pytest.mark.parametrize(
    ("password", "said", "shown"),
    [
        ("p", "Failed to import: no port", "Failed to import: no port"),
        ("p", "the password p is wrong", "withheld"),
        ("server", "no server at 127.0.0.1", "withheld"),
        ("a.b", "no axb at host", "no axb at host"),
        ("s3cretw0rd", "user=me,pw=s3cretw0rd1", "withheld"),
        ("s%40cret", "the password 's@cret' is wrong", "withheld"),
        ("p", "cannot open {url} here", "cannot open postgres://me@h/b?table=c here"),
    ],
)
def test_a_password_is_neither_told_nor_struck_out_of_words(
    password: str, said: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(url: str) -> None:
        raise ValueError(said.format(url=url))

    monkeypatch.setattr(databases.ibis, "connect", connect)
    with pytest.raises(LogError) as caught:
        prepare(f"postgres://me:{password}@h/b?table=c", out=tmp_path / "dataset")
    expected = f"'postgres://me@h/b?table=c' cannot be read: {shown}"
    if shown == "withheld":
        expected = (
            "'postgres://me@h/b?table=c' cannot be read: ValueError (its words are withheld, "
            "because they hold a secret of the URL)"
        )
    assert caught.value.message == expected
    assert "***" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "Postgres", "spark"])
@pytest.mark.parametrize(
    "rest",
    [
        "me:s3cret/w0rd@host/shop?table=clicks",
        "me:5432/s3cret@host/shop?table=clicks",
        "me:w0rd?s3cret@host/shop?table=clicks",
        "me:w0rd#s3cret@host/shop?table=clicks",
        "me:w0rd[s3cret@host/shop?table=clicks",
        "me:w0rd[s3cret/shop?table=clicks",
        "host/shop?table=clicks&password=w0rd@s3cret",
    ],
)
def test_a_password_that_is_not_encoded_is_not_shown(
    scheme: str, rest: str, tmp_path: Path
) -> None:
    with pytest.raises(LogError, match=rf"a URL of {scheme}:// cannot be taken apart") as caught:
        prepare(f"{scheme}://{rest}", out=tmp_path / "dataset")
    assert "percent-encode the password" in str(caught.value.hint)
    assert not [part for part in ("w0rd", "s3cret", "5432") if part in str(caught.value)]
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_secrets_of_a_driver_s_message_are_struck_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(url: str) -> None:
        raise ValueError(f"no idea what {url} is")

    monkeypatch.setattr(databases.ibis, "connect", connect)
    url = "postgres://me:s3cret@host/shop?table=clicks&token=t0ken"
    with pytest.raises(LogError, match=r"'postgres://me@host/shop\?table=clicks' cannot") as caught:
        prepare(url, out=tmp_path / "dataset")
    assert "s3cret" not in str(caught.value) and "t0ken" not in str(caught.value)
