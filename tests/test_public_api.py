"""The public names are what `__all__` says, and cost nothing until they are used."""

from __future__ import annotations

import ast
import json
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import crossfeed
from crossfeed.export import export

HEAVY = ("torch", "duckdb", "ibis", "pandas", "pyarrow", "scipy", "fastapi", "uvicorn")

PUBLIC = {
    "Bundle",
    "Config",
    "CrossfeedError",
    "DataConfig",
    "Dataset",
    "ModelConfig",
    "Part",
    "Query",
    "Recommender",
    "Results",
    "Run",
    "Scorer",
    "TrainConfig",
    "__version__",
    "evaluate",
    "load_config",
    "prepare",
    "simulate",
    "train",
}


def loaded_by(code: str) -> set[str]:
    """Return the heavy packages that a fresh interpreter holds after running `code`."""
    report = "import json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1])) & set(HEAVY)


def test_the_list_is_reality() -> None:
    assert set(crossfeed.__all__) == PUBLIC
    assert len(crossfeed.__all__) == len(PUBLIC)


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_each_public_name_resolves_to_what_its_module_defines(name: str) -> None:
    value = getattr(crossfeed, name)
    assert value.__name__ == name
    assert value.__module__.startswith("crossfeed.")
    assert value.__doc__


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(crossfeed.__file__).read_text("utf-8"))
    (guarded,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = [node for node in guarded.body if isinstance(node, ast.ImportFrom)]
    homes = {alias.asname: node.module for node in imported for alias in node.names}
    assert homes == crossfeed._HOMES


def test_dir_lists_the_public_names() -> None:
    assert set(dir(crossfeed)) == PUBLIC


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'crossfeed' has no attribute 'recomend'"):
        crossfeed.recomend  # noqa: B018


def test_import_loads_nothing_heavy() -> None:
    assert loaded_by("import crossfeed") == set()


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['crossfeed', '--help']\n"
        "from crossfeed.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code"
    )
    assert loaded_by(code) == set()


def test_using_a_light_name_loads_nothing_heavy() -> None:
    assert loaded_by("import crossfeed; crossfeed.load_config()") == set()


def test_every_module_says_what_is_public() -> None:
    silent = [
        module.name
        for module in pkgutil.walk_packages(crossfeed.__path__, "crossfeed.")
        if not module.ispkg and "__all__" not in _source(module.name)
    ]
    assert silent == []


def _source(name: str) -> str:
    path = Path(crossfeed.__file__).parent.joinpath(*name.split(".")[1:]).with_suffix(".py")
    return path.read_text("utf-8")


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda: crossfeed.prepare("x.csv", out="never", config=crossfeed.load_config()),
            r"config must be of type DataConfig; it is of type Config\nhint: .*load_config.*\.data",
        ),
        (
            lambda: crossfeed.prepare("x.csv", out="never", config={"split": "last-out"}),
            "config must be of type DataConfig; it is of type dict",
        ),
        (
            lambda: crossfeed.train("data", out="never"),
            r"dataset must be of type Dataset; it is 'data'\nhint: Dataset\.load",
        ),
        (lambda: crossfeed.load_config("no.toml"), "the configuration 'no.toml' does not exist"),
        (
            lambda: export("run", out="never"),
            r"run must be of type Run; it is 'run'\nhint: Run\.open",
        ),
    ],
)
def test_natural_mistakes_are_told(
    call: Callable[[], object], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(crossfeed.CrossfeedError, match=told):
        call()
    assert list(tmp_path.iterdir()) == []
