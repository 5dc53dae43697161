"""`crossfeed pin`: which bundles there are, and which one is in service."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from bundles import variant
from click.testing import Result
from typer.testing import CliRunner

from crossfeed.bundle import Bundle
from crossfeed.cli import app
from crossfeed.serving.histories.url import open_store


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="crossfeed")


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    """Return a folder with a bundle, an older one that answers otherwise and a damaged one."""
    made = tmp_path / "bundles"
    made.mkdir()
    shutil.copytree(bundle.path, made / "monday")
    variant(bundle, made / "sunday", factor=-0.5)
    variant(bundle, made / "broken", factor=0.25)
    (made / "broken" / "weights.safetensors").write_bytes(b"")
    for time, name in enumerate(("broken", "sunday", "monday")):
        os.utime(made / name / "bundle.json", (time, time))
    return made


def pinned(folder: Path) -> list[str]:
    store = open_store(f"sqlite:///{folder}.histories.sqlite")
    found = [pin.version for pin in store.pins(limit=9)]
    store.close()
    return found


def test_a_version_is_pinned_by_its_folder_or_by_itself(folder: Path) -> None:
    monday, sunday = (Bundle.stated_version(folder / name) for name in ("monday", "sunday"))
    result = run("pin", folder, "monday")
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"version {monday} is pinned" in result.stderr
    assert run("pin", folder, sunday).exit_code == 0
    assert run("pin", folder, monday).exit_code == 0  # and back
    assert pinned(folder) == [monday, sunday, monday]


def test_without_a_version_it_tells_what_there_is(folder: Path) -> None:
    monday, sunday = (Bundle.stated_version(folder / name) for name in ("monday", "sunday"))
    assert json.loads(run("pin", folder, "--json").stdout)["pins"] == []
    run("pin", folder, "monday")
    run("pin", folder, "sunday")
    table = [line.split() for line in run("pin", folder).stdout.splitlines()]
    by_version = {words[0]: words for words in table if words}
    assert by_version[monday][1] == "monday" and by_version[monday][-1] == "UTC"
    assert by_version[sunday][1] == "sunday" and by_version[sunday][-2:] == ["in", "service"]
    told = json.loads(run("pin", folder, "--json").stdout)
    assert [pin["version"] for pin in told["pins"]] == [sunday, monday]
    newest_first = [Path(one["folder"]).name for one in told["versions"]]
    assert newest_first == ["monday", "sunday", "broken"]
    shutil.rmtree(folder / "sunday")
    assert "pinned, but not here" in run("pin", folder).stdout


def test_what_is_not_sound_is_not_pinned(folder: Path, bundle: Bundle) -> None:
    run("pin", folder, "monday")
    variant(bundle, folder / "integers", user_id_type=pa.int64(), histories=None)
    for wanted, told in (
        ("broken", "weights.safetensors has"),
        ("gone", "version 'gone' is not here; there are: "),
        ("integers", "has user_id_type int64, the histories in service have string"),
    ):
        refused = run("pin", folder, wanted)
        assert refused.exit_code == 1
        assert told in refused.stderr and "hint: " in refused.stderr
    assert pinned(folder) == [Bundle.stated_version(folder / "monday")]


@pytest.mark.parametrize("command", [["pin"], ["serve", "--port", "0"]])
def test_a_folder_without_bundles_is_named_and_gets_no_store(
    command: list[str], tmp_path: Path
) -> None:
    refused = run(*command, tmp_path / "nothing")
    assert refused.exit_code == 1
    assert "is neither a bundle nor a folder of bundles" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_histories_of_a_folder_are_those_of_the_bundle_in_service(
    folder: Path, tmp_path: Path
) -> None:
    """The store lies beside the folder, filled from the bundle that is served."""
    run("pin", folder, "sunday")
    result = run("histories", "forget", folder, "u001")
    assert (result.exit_code, result.stderr) == (0, "erased 18 events of 'u001'\n")
    out = tmp_path / "out.parquet"
    assert run("histories", "export", folder, "--out", out).exit_code == 0
    assert (tmp_path / "bundles.histories.sqlite").exists()
