"""Imports go one way. This is the table of who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "crossfeed"

_BASE = {"errors", "outputs", "files", "table_files", "config", "scorer", "settings"}

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "outputs": {"errors"},
    "files": {"errors", "outputs"},
    "table_files": {"errors", "outputs", "files"},
    "config": {"errors", "files"},
    "scorer": {"errors", "files", "config"},
    "settings": {"config"},
    "checkpoints": {*_BASE},
    "item_ids": {*_BASE},
    "item_index": {*_BASE},
    "data": _BASE,
    "model": {*_BASE, "data"},
    "evaluation": {*_BASE, "data"},  # it sees the Scorer protocol, never a network
    "run": {*_BASE, "data", "model", "evaluation", "checkpoints"},
    "training": {*_BASE, "data", "model", "evaluation", "run"},
    "experiments": {*_BASE, "data", "model", "evaluation", "run", "training"},
    "bundle": {*_BASE, "data", "model", "item_ids", "item_index"},
    "export": {*_BASE, "data", "model", "evaluation", "run", "bundle", "item_index"},
    "serving": {*_BASE, "data", "model", "bundle"},  # and never what only training needs
    "cli": {
        *_BASE,
        *("data", "model", "evaluation", "run", "training", "experiments"),
        *("bundle", "export", "serving"),
    },
    "__main__": {"cli"},
}
"""Module or package at the top level -> those that it may import, itself apart."""


def violations(package: Path) -> list[str]:
    """Return every import of `package` that the table does not allow, one sentence each."""
    found = []
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        layer = parts[0]
        if layer == "__init__":
            continue
        if layer not in MAY_IMPORT:
            found.append(f"{file.name}: the module '{layer}' has no place in the table of layers")
            continue
        for line, imported in _imports(file, (package.name, *parts)):
            if imported != layer and imported not in MAY_IMPORT[layer]:
                found.append(f"{'/'.join(parts)}.py:{line}: {layer} may not import {imported}")
    return found


def _imports(file: Path, module: tuple[str, ...]) -> list[tuple[int, str]]:
    """Return line and top-level module of every import from the package itself."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module[: -node.level]) + "." if node.level else ""
            origin = (base + (node.module or "")).rstrip(".")
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            root, _, rest = name.partition(".")
            top = rest.partition(".")[0]
            if root == module[0] and not top.startswith("__version__"):
                found.append((node.lineno, top))
    return [(line, top) for line, top in found if top]


def test_imports_go_one_way() -> None:
    assert violations(PACKAGE) == []


def test_the_table_names_only_what_exists_or_is_planned() -> None:
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert set(MAY_IMPORT) <= there


def test_the_table_has_no_cycle() -> None:
    for layer, allowed in MAY_IMPORT.items():
        for lower in allowed:
            assert layer not in MAY_IMPORT[lower], f"{layer} and {lower} import each other"


@pytest.mark.parametrize(
    ("path", "source", "sentence"),
    [
        ("serving/app.py", "from crossfeed.run import Run", "serving may not import run"),
        ("serving/app.py", "import crossfeed.training.trainer", "serving may not import training"),
        ("serving/app.py", "from crossfeed import evaluation", "serving may not import evaluation"),
        (
            "serving/app.py",
            "from ..experiments import tuning",
            "serving may not import experiments",
        ),
        ("evaluation/x.py", "from crossfeed.model.scorer import X", "may not import model"),
        ("data/x.py", "def f():\n    from crossfeed.cli import app", "data may not import cli"),
        ("errors.py", "import crossfeed.files", "errors may not import files"),
        ("utils.py", "import os", "the module 'utils' has no place in the table"),
    ],
)
def test_a_planted_violation_is_found(
    tmp_path: Path, path: str, source: str, sentence: str
) -> None:
    file = tmp_path / "crossfeed" / path
    file.parent.mkdir(parents=True)
    file.write_text(source, "utf-8")
    (found,) = violations(tmp_path / "crossfeed")
    assert sentence in found


def test_what_is_allowed_is_not_reported(tmp_path: Path) -> None:
    file = tmp_path / "crossfeed" / "export.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "import torch\nfrom crossfeed import __version__\n"
        "from crossfeed.run import Run\nfrom crossfeed.bundle import write_bundle\n",
        "utf-8",
    )
    assert violations(tmp_path / "crossfeed") == []
