"""Neither the service nor what it depends on calls anybody."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ASK = """
import sys
from starlette.testclient import TestClient
from crossfeed.bundle import Bundle
from crossfeed.model.onnx.runtime import OnnxEncoder
from crossfeed.serving.histories.url import open_store
from crossfeed.serving.http.app import create_app

bundle = Bundle.load(sys.argv[1])
with TestClient(create_app(bundle, store=open_store("sqlite://"))) as client:
    assert client.get("/v1/users/u001/recommendations?domain=videos").is_success
    assert client.get("/docs").is_success and client.get("/metrics").is_success
assert isinstance(bundle.encoder, OnnxEncoder)
"""


def ask(bundle: Path, home: Path, *before: str) -> None:
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run([*before, sys.executable, "-c", ASK, str(bundle)], env=environment, check=True)


def test_nothing_is_written_into_the_home_folder(bundle_path: Path, tmp_path: Path) -> None:
    """What would be sent later is often kept there."""
    ask(bundle_path, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace to see native calls")
def test_no_connection_is_made_and_no_name_is_looked_up(bundle_path: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    ask(
        bundle_path,
        tmp_path,
        *("strace", "-f", "-o", str(trace), "-e", "trace=connect,sendto,sendmsg,sendmmsg,execve"),
    )
    told = trace.read_text()
    assert "execve(" in told  # it did trace
    assert re.findall(r".*sa_family=AF_INET6?.*", told) == []
