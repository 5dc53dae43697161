"""A session of Spark, for the engine and for Spark's tables; the extra `spark`."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from crossfeed.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["spark_errors", "spark_session"]

_LOCAL_SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    # Spark's own 200 are for a cluster.
    "spark.sql.shuffle.partitions": str(4 * (os.cpu_count() or 1)),
}
"""For a Spark within this process, without a UI or outside connections."""


@contextlib.contextmanager
def spark_session(master: str | None, *, memory: str | None = None) -> Iterator[SparkSession]:
    """Yield the session that is active, or one of its own that ends with it.

    Args:
        master: where Spark runs, such as "spark://host:7077"; None is the active session's, or
            else this machine.
        memory: of a Spark on this machine, such as "4GiB".

    Raises:
        MissingExtraError: pyspark is not installed.
        ConfigError: there is no Java, or the active session is of another master.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise MissingExtraError(package="pyspark", extra="spark") from error
    active = SparkSession.getActiveSession()
    if active is not None:
        _require_same(active.sparkContext.master, master)
        yield active
        return
    _require_java()
    session = _start(master or "local[*]", memory)
    try:
        yield session
    finally:
        session.stop()


def spark_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of Spark; none if it is not installed."""
    try:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException
    except ImportError:
        return ()
    return PySparkException, Py4JError


def _start(master: str, memory: str | None) -> SparkSession:
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master(master).appName("crossfeed")
    if master.startswith("local"):
        settings = {**_LOCAL_SETTINGS, "spark.driver.memory": _jvm_size(memory or "4GiB")}
        for name, value in settings.items():
            builder = builder.config(name, value)
    session: SparkSession = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def _require_same(active: str | None, master: str | None) -> None:
    if master not in (None, active):
        raise ConfigError(
            f"a session at the Spark master '{active}' is active, and '{master}' was asked for",
            hint="a process has one session: stop it, or work in it (engine 'spark', "
            "spark://?table=...)",
        )


def _jvm_size(size: str) -> str:
    """Return "4GiB" as the JVM writes it: 4g."""
    return size.replace(" ", "").lower().removesuffix("b").removesuffix("i")


def _require_java() -> None:
    home = os.environ.get("JAVA_HOME")
    if shutil.which("java") is None and not (home and (Path(home) / "bin" / "java").exists()):
        raise ConfigError(
            "Spark needs Java 17, and no 'java' was found",
            hint="on Debian and Ubuntu: apt install openjdk-17-jre-headless; or set JAVA_HOME",
        )
