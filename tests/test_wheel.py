"""The wheel that is built from this tree: what is in it, and that its types are shipped."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import crossfeed

ROOT = Path(__file__).parents[1]
pytest.importorskip("hatchling", reason="the wheel is built without network, by what is installed")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_has_the_packages_version(wheel: Path) -> None:
    assert wheel.name == f"crossfeed-{crossfeed.__version__}-py3-none-any.whl"


def test_the_wheel_holds_every_module_the_types_and_the_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    modules = {f"crossfeed/{path.relative_to(ROOT / 'src/crossfeed')}" for path in _modules()}
    assert modules <= set(names)
    assert "crossfeed/py.typed" in names
    assert {f"crossfeed/evaluation/report/page.{kind}" for kind in ("html", "css")} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert top == {"crossfeed", f"crossfeed-{crossfeed.__version__}.dist-info"}


def test_the_wheel_has_the_command(wheel: Path) -> None:
    info = f"crossfeed-{crossfeed.__version__}.dist-info/entry_points.txt"
    text = zipfile.ZipFile(wheel).read(info).decode()
    assert "crossfeed = crossfeed.__main__:main" in text


def _modules() -> list[Path]:
    return list((ROOT / "src" / "crossfeed").rglob("*.py"))
