"""Every engine makes the same dataset, hash for hash."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from data.dirt import dirty_log
from data.spark import require_spark

from crossfeed.config import DataConfig
from crossfeed.data.engines.spark_session import spark_session
from crossfeed.data.prepare import pipeline as module
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.errors import ConfigError, MissingExtraError, OutputError
from crossfeed.installing import install_hint

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DATA = os.environ.get("CROSSFEED_DATA")
DIRTY = {"positive": "rating >= 2", "min_domain_events": 50, "max_quarantine_share": 0.5}


def on_both(log: Path, folder: Path, **settings: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the manifests that the two engines make."""
    config = DataConfig.model_validate(settings)
    embedded, spark = (
        prepare(log, out=folder / engine, config=config, engine=engine).manifest
        for engine in ("duckdb", "spark")
    )
    return embedded, spark


@pytest.mark.usefixtures("spark")
def test_spark_makes_the_same_dataset_of_a_dirty_log(tmp_path: Path) -> None:
    dirty_log(rows=1500).to_parquet(tmp_path / "log.parquet")
    embedded, spark = on_both(tmp_path / "log.parquet", tmp_path, split="temporal", **DIRTY)
    assert spark == embedded
    assert len(embedded["log"]["quarantined"]) == 5
    dropped = {**embedded["dropped"], **embedded["untrained"]}
    assert all(dropped[reason] for reason in ("not a click", "repeat", "k-core"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["duckdb", "log.parquet", "spark"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize("integer_items", [True, False])
@pytest.mark.parametrize("repeats", ["first", "last", "keep"])
@pytest.mark.parametrize("split", ["temporal", "last-out", "new-in-domain"])
def test_spark_makes_the_same_of_every_split_and_policy(
    split: str, repeats: str, integer_items: bool, tmp_path: Path
) -> None:
    log = dirty_log(integer_items=integer_items)
    log.to_csv(tmp_path / "log.csv", index=False)
    embedded, spark = on_both(tmp_path / "log.csv", tmp_path, split=split, repeats=repeats, **DIRTY)
    assert spark == embedded


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("spark")
@pytest.mark.skipif(not DATA, reason="CROSSFEED_DATA is not set: no real data at hand")
@pytest.mark.parametrize("split", ["temporal", "last-out", "new-in-domain"])
def test_spark_makes_the_same_dataset_of_ciao(split: str, tmp_path: Path) -> None:
    embedded, spark = on_both(Path(str(DATA)) / "ciao" / "ratings.parquet", tmp_path, split=split)
    assert spark == embedded
    assert embedded["counts"]["events"] > 100_000


@pytest.mark.slow
@pytest.mark.usefixtures("spark")
def test_interrupted_work_on_spark_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log.parquet"
    dirty_log(rows=1500).to_parquet(log)
    config = DataConfig.model_validate(DIRTY)

    def interrupt(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "index", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(log, out=tmp_path / "dataset", config=config, engine="spark")
    monkeypatch.setattr(module, "encode", interrupt)  # it must not be called again
    resumed = prepare(log, out=tmp_path / "dataset", config=config, engine="spark").manifest
    monkeypatch.undo()
    assert resumed == prepare(log, out=tmp_path / "whole", config=config).manifest


def small_log(folder: Path) -> Path:
    dirty_log(rows=200).to_parquet(folder / "log.parquet")
    return folder / "log.parquet"


def test_an_unknown_engine_is_told_before_the_log_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no engine 'sparc'") as caught:
        prepare(tmp_path / "nothing", out=tmp_path / "data", engine="sparc")
    assert "duckdb, spark, or a Spark master: spark://host:7077" in str(caught.value.hint)


def test_without_pyspark_the_install_command_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(MissingExtraError, match="'pyspark', which is not installed") as caught:
        prepare(small_log(tmp_path), out=tmp_path / "data", engine="spark")
    assert caught.value.hint == install_hint("spark")
    assert [path.name for path in tmp_path.iterdir()] == ["log.parquet"]


def test_without_java_it_is_told_where_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_spark()
    monkeypatch.setattr("pyspark.sql.SparkSession.getActiveSession", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(ConfigError, match="needs Java 17, and no 'java' was found") as caught:
        prepare(small_log(tmp_path), out=tmp_path / "data", engine="local[1]")
    assert "openjdk-17-jre-headless" in str(caught.value.hint)


def test_the_session_that_is_active_serves_its_own_master_alone(spark: SparkSession) -> None:
    with spark_session("local[1]") as session:
        assert session is spark
    assert spark.range(3).count() == 3  # who found it does not stop it
    message = r"at the Spark master 'local\[1\]' is active, and 'local\[3\]' was asked for"
    with pytest.raises(ConfigError, match=message), spark_session("local[3]"):
        pass


@pytest.mark.usefixtures("spark")
def test_what_spark_says_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(engine: Any, *given: object, **named: object) -> None:
        engine._session.sql("SELECT * FROM no_such_table").collect()

    monkeypatch.setattr(module, "encode", fail)
    with pytest.raises(OutputError, match=r"Spark failed: .*no_such_table"):
        config = DataConfig.model_validate(DIRTY)
        prepare(small_log(tmp_path), out=tmp_path / "data", engine="spark", config=config)
    assert [path.name for path in tmp_path.iterdir()] == ["log.parquet"]
