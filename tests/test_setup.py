"""`make demo` and `make test` set themselves up, each with what it needs; pip only takes notes."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECORDER = '#!/bin/sh\necho "$@" >> "$(dirname "$0")/../../asked"\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a checkout with an environment in which everything that is called is noted."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "scripts/install"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in (".venv/bin/python", ".venv/bin/crossfeed", "scripts/test"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(RECORDER if ".venv" in name else "#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def make(checkout: Path, target: str) -> tuple[set[str], str]:
    """Return the extras that a target installs, and all that it asks pip for."""
    asked = checkout / "asked"
    asked.unlink(missing_ok=True)
    subprocess.run(["make", target], cwd=checkout, check=True, capture_output=True)
    text = asked.read_text() if asked.exists() else ""
    found = re.search(r"--editable \.\[([\w,]+)\]", text)
    return set(found[1].split(",")) if found else set(), text


def test_the_demo_installs_what_it_needs_alone(checkout: Path) -> None:
    extras, asked = make(checkout, "demo")
    assert extras == {"serve", "report"}
    assert "torchrec" not in asked
    assert make(checkout, "demo")[0] == set()  # the second time it is there


def test_the_tests_install_all_that_they_need(checkout: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # The tests' redis comes with dev; TorchRec's own requirements would bring CUDA.
    wanted = set(project["optional-dependencies"]) - {"distributed", "redis"}
    extras, asked = make(checkout, "test")
    assert extras == wanted
    # The last of all, so that pip has nothing to complain about afterwards.
    assert asked.splitlines()[-1].endswith("--no-deps torchrec fbgemm-gpu-cpu")
    assert make(checkout, "test")[0] == make(checkout, "demo")[0] == set()


def test_the_tests_after_the_demo_install_the_rest(checkout: Path) -> None:
    make(checkout, "demo")
    assert {"serve", "report", "dev", "spark"} <= make(checkout, "test")[0]


def test_another_purpose_is_refused(checkout: Path) -> None:
    done = subprocess.run(
        ["scripts/install", "everything"], cwd=checkout, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (
        1,
        "error: 'everything' is unknown; it is demo or all\nhint: scripts/install all\n",
    )
