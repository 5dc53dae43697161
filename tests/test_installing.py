"""A hint to install an extra works where the package came from."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from crossfeed import installing
from crossfeed.errors import MissingExtraError
from crossfeed.installing import install_hint

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an installed package; return the folder of its metadata."""
    (tmp_path / "crossfeed").mkdir()
    facts = tmp_path / "crossfeed-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: crossfeed\nVersion: 1.0\nRequires-Dist: numpy>=2\n"
        "Provides-Extra: tune\nRequires-Dist: matplotlib>=3; extra == 'tune'\n"
        "Requires-Dist: optuna>=5 ; extra == \"tune\"\nRequires-Dist: redis>=6; extra == 'redis'\n"
    )
    monkeypatch.setattr(installing, "_PACKAGE", tmp_path / "crossfeed")
    monkeypatch.setattr(metadata, "distribution", lambda name: metadata.PathDistribution(facts))
    return facts


def wanted(extra: str) -> list[str]:
    words = shlex.split(install_hint(extra))
    return words[words.index("install") + 1 :]


def test_a_source_tree_is_installed_from_where_it_lies() -> None:
    assert wanted("tune") == ["--editable", f"{ROOT}[tune]"]
    assert MissingExtraError(package="optuna", extra="tune").hint == install_hint("tune")


def test_pip_takes_the_hint() -> None:
    """The installer itself reads it; nothing is installed and no network is asked."""
    words = shlex.split(install_hint("tune"))
    place = words.index("install")
    command = [sys.executable, "-m", "pip", *words[place:], "--dry-run", "--no-deps", "--no-index"]
    done = subprocess.run(
        [*command, "--no-build-isolation"], capture_output=True, text=True, cwd="/"
    )
    assert (done.returncode, "Would install crossfeed" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize(
    ("facts", "origin"),
    [
        (
            {"url": "https://x.example/c.git", "vcs_info": {"vcs": "git", "commit_id": "0a1b"}},
            "git+https://x.example/c.git@0a1b",
        ),
        ({"url": "https://x.example/c-1.0.whl", "archive_info": {}}, "https://x.example/c-1.0.whl"),
        ({"url": "file:///", "dir_info": {}}, "file:///"),
    ],
)
def test_what_came_by_url_is_installed_by_url(
    installed: Path, facts: dict[str, object], origin: str
) -> None:
    (installed / "direct_url.json").write_text(json.dumps(facts))
    assert wanted("tune") == [f"crossfeed[tune] @ {origin}"]


@pytest.mark.parametrize("facts", [None, {"url": "file:///gone/c.whl", "archive_info": {}}])
def test_else_the_packages_are_named(installed: Path, facts: dict[str, object] | None) -> None:
    if facts:
        (installed / "direct_url.json").write_text(json.dumps(facts))
    assert wanted("tune") == ["matplotlib>=3", "optuna>=5"]


def test_the_installer_is_that_of_this_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/pip")
    assert install_hint("tune").startswith(f"{shlex.quote(sys.executable)} -m pip install ")
    monkeypatch.setattr(shutil, "which", lambda name: str(Path(sys.executable).with_name("pip")))
    assert install_hint("tune").startswith("pip install ")


def test_every_extra_that_is_missed_exists() -> None:
    named = {
        name
        for file in (ROOT / "src").rglob("*.py")
        for name in re.findall(r'MissingExtraError\([^)]*extra="(\w+)"', file.read_text("utf-8"))
    }
    assert named and named <= set(EXTRAS)


def test_nothing_tells_to_install_by_the_bare_name() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "src").rglob("*.py")]
    bare = re.compile(r"""pip install ['"]?crossfeed""")
    assert [page.name for page in pages if bare.search(page.read_text("utf-8"))] == []
