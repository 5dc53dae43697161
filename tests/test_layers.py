"""Imports go one way. This is the table of who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "crossfeed"

_BASE = {"errors", "outputs", "files", "table_files", "config", "scorer"}

MAY_IMPORT: dict[str, set[str]] = {
    "installing": set(),
    "errors": {"installing"},
    "outputs": {"errors"},
    "files": {"errors", "outputs"},
    "table_files": {"errors", "outputs", "files"},
    "config": {"errors", "files"},
    "scorer": {"errors", "files", "config"},
    "data": _BASE,
    "model": {*_BASE, "data"},
    "evaluation": {*_BASE, "data"},  # it sees the Scorer protocol, never a network
    "run": {*_BASE, "data", "model", "evaluation"},
    "training": {*_BASE, "data", "model", "evaluation", "run"},
    "studies": {*_BASE, "data", "model", "evaluation", "run", "training"},
    "bundle": {*_BASE, "data", "model"},
    "export": {*_BASE, "data", "model", "evaluation", "run", "bundle"},
    "serving": {*_BASE, "data", "model", "bundle"},  # and never what only training needs
    "cli": {
        *_BASE,
        *("data", "model", "evaluation", "run", "training", "studies"),
        *("bundle", "export", "serving"),
    },
    "__main__": {"cli"},
}
"""Module or package at the top level -> those that it may import, itself apart."""

EXCEPTIONS = {"evaluation/baselines/demand.py": "model"}
"""File -> a package that it alone may import: the baseline fits the function of the players."""

ROOMS: dict[str, tuple[str, ...]] = {
    "config": ("sections removed", "loading differences"),
    "run": ("checkpoints", "folder"),
    "bundle": ("item_ids item_index", "format", "reading writing"),
    "data": ("demand", "dataset", "engines", "sources", "logs", "prepare inspect simulate"),
    "data.logs": (
        "places",
        "values",
        "inputs",
        "columns",
        "opening",
        "cleaning",
        "reading",
    ),
    "model": (
        "demand candidates gaps decay",
        "losses",
        "users items",
        "player",
        "discriminator generator",
        "players",
        "network_scorer",
        "onnx",
    ),
    "evaluation": (
        "ranking slices outcomes clock",
        "metrics lists",
        "figures judgement",
        "results",
        "statistics baselines",
        "audit evaluate report",
    ),
    "training": ("parallel", "step", "watch", "loop"),
    "serving": ("ids", "histories", "recommend", "engine", "operations", "http", "process"),
    "serving.histories": (
        "availability pins forgetting bulk",
        "history",
        "tables group_commit",
        "sqlite redis",
        "guarded_store url",
    ),
    "serving.http": (
        "schemas",
        "problems",
        "guards protocol answering route description",
        "app",
    ),
    "serving.recommend": (
        "answers query timing",
        "target",
        "rules",
        "ranking sources fallback",
        "explaining reranking reading",
        "answers_table pipeline",
        "recommender",
    ),
}
"""Package -> its rooms from the lowest to the highest. A room imports itself and lower ones; those
in one text are of one height and may not import each other."""


def violations(package: Path) -> list[str]:
    """Return every import of `package` that the tables do not allow, one sentence each."""
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
            place = f"{'/'.join(parts)}.py:{line}"
            allowed = {*MAY_IMPORT[layer], EXCEPTIONS.get("/".join(parts) + ".py")}
            if imported[0] != layer and imported[0] not in allowed:
                found.append(f"{place}: {layer} may not import {imported[0]}")
            found += [f"{place}: {sentence}" for sentence in _upwards(parts, imported)]
    return found


def _upwards(parts: tuple[str, ...], imported: tuple[str, ...]) -> Iterator[str]:
    """Say of each package that both share whether the import goes up inside it."""
    for depth in range(1, min(len(parts), len(imported))):
        if parts[:depth] != imported[:depth]:
            return
        package, room, other = ".".join(parts[:depth]), parts[depth], imported[depth]
        if package not in ROOMS or room in (other, "__init__"):
            continue
        heights = {
            name: height for height, names in enumerate(ROOMS[package]) for name in names.split()
        }
        for name in (room, other):
            if name not in heights:
                yield f"'{name}' has no place in the table of {package}"
                return
        if heights[room] <= heights[other]:
            yield f"{package}.{room} may not import {package}.{other}"


def _imports(file: Path, module: tuple[str, ...]) -> list[tuple[int, tuple[str, ...]]]:
    """Return line and path below the package of every import from the package itself."""
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
            if root == module[0] and rest and not rest.startswith("__version__"):
                found.append((node.lineno, rest))
    return [(line, tuple(rest.split("."))) for line, rest in found]


def test_imports_go_one_way() -> None:
    assert violations(PACKAGE) == []


def test_the_table_names_only_what_exists_or_is_planned() -> None:
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert set(MAY_IMPORT) <= there


def test_every_room_of_the_table_is_there() -> None:
    for package, rows in ROOMS.items():
        folder = PACKAGE.joinpath(*package.split("."))
        there = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
        assert {name for row in rows for name in row.split()} == there - {"__init__", "__pycache__"}


def test_the_table_has_no_cycle() -> None:
    for layer, allowed in MAY_IMPORT.items():
        for lower in allowed:
            assert layer not in MAY_IMPORT[lower], f"{layer} and {lower} import each other"


@pytest.mark.parametrize(
    ("path", "source", "sentence"),
    [
        ("serving/http/app.py", "from crossfeed.run import Run", "serving may not import run"),
        (
            "serving/http/app.py",
            "import crossfeed.training.loop.trainer",
            "serving may not import training",
        ),
        (
            "serving/http/app.py",
            "from crossfeed import evaluation",
            "serving may not import evaluation",
        ),
        (
            "serving/http/app.py",
            "from ...studies import search",
            "serving may not import studies",
        ),
        ("evaluation/x.py", "from crossfeed.model.network_scorer import X", "may not import model"),
        ("data/x.py", "def f():\n    from crossfeed.cli import app", "data may not import cli"),
        ("errors.py", "import crossfeed.files", "errors may not import files"),
        (
            "training/step/x.py",
            "from crossfeed.training.loop.trainer import Fit",
            "training.step may not import training.loop",
        ),
        (
            "serving/http/problems.py",
            "from crossfeed.serving.http.app import create_app",
            "serving.http.problems may not import serving.http.app",
        ),
        (
            "data/logs/x.py",
            "from ..prepare import filters",
            "data.logs may not import data.prepare",
        ),
        ("data/other/x.py", "from crossfeed.data.logs import times", "'other' has no place"),
        (
            "run/folder.py",
            "from crossfeed.run import Run",
            "'Run' has no place in the table of run",
        ),
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
