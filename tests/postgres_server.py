"""A Postgres server of our own, in a temporary folder, on the loopback interface."""

from __future__ import annotations

import getpass
import glob
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

__all__ = ["PASSWORD", "PostgresServer", "postgres"]

PASSWORD = "s3cret/pass:word"
_OWNER = "postgres"


def _programs() -> Path:
    """Return the folder of the server's programs; without one, skip the test, or fail it in CI."""
    folders = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    found = shutil.which("initdb") or next((f"{folder}/initdb" for folder in folders[::-1]), None)
    reason = None
    if found is None or not Path(found).exists():
        reason = "needs a Postgres server (Debian: apt install postgresql)"
    elif os.geteuid() == 0 and shutil.which("runuser") is None:
        reason = "Postgres refuses to run as root, and there is no 'runuser' to run it as another"
    if reason is None:
        return Path(str(found)).parent
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class PostgresServer:
    """A server with a user `crossfeed`, who needs a password, and a database `shop`."""

    def __init__(self) -> None:
        programs = _programs()
        # Not pytest's folder, into which the server's own user may not look.
        self.folder = Path(tempfile.mkdtemp(prefix="crossfeed-postgres-"))
        self._as_owner = [] if os.geteuid() else ["runuser", "-u", _OWNER, "--"]
        if self._as_owner:
            shutil.chown(self.folder, _OWNER)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        data = self.folder / "data"
        initdb = [programs / "initdb", "-D", data, "-U", "crossfeed", "--pwfile", secret]
        initdb += ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"]
        self._run(initdb)
        server = [programs / "postgres", "-D", data, "-p", str(self.port), "-k", self.folder]
        server += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*self._as_owner, *map(str, server)], stdout=log, stderr=log, cwd=self.folder
            )
        self._wait()
        with self.connect("postgres") as connection:
            connection.execute("CREATE DATABASE shop")

    def url(self, table: str, *, password: str | None = PASSWORD, database: str = "shop") -> str:
        """Return a table's URL as `prepare` takes it."""
        secret = "" if password is None else f":{password.replace('/', '%2F').replace(':', '%3A')}"
        return f"postgres://crossfeed{secret}@127.0.0.1:{self.port}/{database}?table={table}"

    def connect(self, database: str = "shop") -> psycopg.Connection:
        """Return a connection that commits by itself."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="crossfeed",
            password=PASSWORD,
            dbname=database,
            autocommit=True,
        )

    def close(self) -> None:
        """End the server and remove its folder."""
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self.folder)

    def _run(self, command: list[str | Path]) -> None:
        subprocess.run(
            [*self._as_owner, *map(str, command)], check=True, capture_output=True, cwd=self.folder
        )

    def _wait(self) -> None:
        for _ in range(3_000):
            assert self._process.poll() is None, (self.folder / "log").read_text()
            try:
                self.connect("postgres").close()
            except psycopg.OperationalError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError(f"the Postgres server of {getpass.getuser()} did not start")


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.close()
