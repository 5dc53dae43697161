"""No command destroys what it was not asked to replace: every output meets what it may not be."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from crossfeed.cli import app
from crossfeed.errors import OutputError
from crossfeed.files import write_json
from crossfeed.outputs import (
    BUNDLE,
    DATASET,
    DEMO,
    REPORT,
    RUN,
    STUDY,
    require_file,
    require_folder,
)

FOLDERS = (DATASET, RUN, BUNDLE, STUDY, DEMO)
SMALL = ["--set", "train.epochs=1", "--set", "model.width=8", "--set", "train.candidates=20"]
TUNED = ["--trials", "1", *SMALL]


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), prog_name="crossfeed")


def done(*words: str) -> Result:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result


def contents(folder: Path) -> dict[str, str]:
    """Return each file's path and hash; what a refused command leaves alone."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make one output of each kind in a folder, and work there."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("world")
        patch.chdir(folder)
        sizes = ["--users", "200", "--items", "150", "--domains", "3", "--events", "2500"]
        done("simulate", "log.parquet", *sizes)
        done("prepare", "log.parquet", "--out", "data")
        done("train", "data", "--out", "run", *SMALL)
        done("evaluate", "run", "--baselines", "popularity")
        done("export", "run", "--out", "bundle", "--without-onnx")
        done("tune", "data", "--out", "study", *TUNED)
        done("recommend", "bundle", "--all", "--out", "all.parquet")
        done("generate", "run", "--domain", "articles", "--out", "samples.parquet")
        done("histories", "export", "bundle", "--out", "events.parquet")
        done("report", "run", "--out", "report.html", "--examples", "0")
        Path("thesis").mkdir()
        Path("thesis/thesis.tex").write_text("three years of work")
        Path("notes.txt").write_text("mine")
        yield folder


COMMANDS = {
    "prepare": ["prepare", "log.parquet", "--out"],
    "train": ["train", "data", *SMALL, "--out"],
    "export": ["export", "run", "--without-onnx", "--out"],
    "tune": ["tune", "data", *TUNED, "--out"],
    "demo": ["demo", "--out"],
    "simulate": ["simulate", "--users", "60", "--items", "60", "--domains", "2", "--events", "300"],
    "generate": ["generate", "run", "--domain", "articles", "--out"],
    "recommend": ["recommend", "bundle", "--all", "--out"],
    "histories": ["histories", "export", "bundle", "--out"],
    "report": ["report", "run", "--examples", "0", "--out"],
}
"""Every command that writes to a place that it is told, as far as that place."""

WRITES = {
    "prepare": "data",
    "train": "run",
    "export": "bundle",
    "tune": "study",
    "demo": None,
    "simulate": "log.parquet",
    "generate": "samples.parquet",
    "recommend": "all.parquet",
    "histories": "events.parquet",
    "report": "report.html",
}
"""Command -> what it wrote in the world."""

PLACES = [*filter(None, WRITES.values()), "thesis", "notes.txt", "log.truth.safetensors"]
REPLACES = sorted(set(COMMANDS) - {"tune", "demo"})  # a study continues


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_of_another_kind_is_replaced(world: Path, command: str, place: str) -> None:
    if WRITES[command] == place:
        pytest.skip("like replaces like")
    before = contents(world)
    overwrite = ["--overwrite"] if command in REPLACES else []
    result = run(*COMMANDS[command], place, *overwrite)
    assert (result.exit_code, result.stderr.startswith("error: '")) == (1, True), result.output
    assert "hint: " in result.stderr
    assert "--overwrite" not in result.stderr  # it would not help
    assert contents(world) == before


@pytest.mark.parametrize("command", REPLACES)
def test_nothing_is_replaced_without_overwrite(world: Path, command: str) -> None:
    before = contents(world)
    result = run(*COMMANDS[command], str(WRITES[command]))
    assert result.exit_code == 1
    assert "exists already\nhint: choose another --out, or replace it with --overwrite" in (
        result.stderr
    )
    assert contents(world) == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["export", "run", "--out", "run"], "is an input of this command"),
        (["export", "run", "--out", "./data/../run"], "is an input of this command"),
        (["export", "run", "--out", "run/bundle"], "lies in 'run', an input"),
        (["export", "run", "--out", "data"], "is an input of this command"),
        (["train", "data", *SMALL, "--out", "data"], "is an input of this command"),
        (["train", "data", *SMALL, "--out", "data/run"], "lies in 'data', an input"),
        (["tune", "data", *TUNED, "--out", "data"], "is an input of this command"),
        (["prepare", "logs", "--out", "logs"], "is an input of this command"),
        (["prepare", "logs/*.parquet", "--out", "logs"], "crossfeed did not write"),
        (["prepare", "data/new.parquet", "--out", "data"], "'data' holds 'data/new.parquet'"),
        (["recommend", "bundle", "--all", "--out", "bundle/a.csv"], "lies in 'bundle', an input"),
        (["histories", "export", "bundle", "--out", "bundle/a.csv"], "lies in 'bundle', an input"),
        (["generate", "run", "--domain", "articles", "--out", "run/a.csv"], "lies in 'run'"),
        (["report", "run", "--out", "run/results.json"], "lies in 'run', an input"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_no_output_overlaps_an_input(world: Path, words: list[str], sentence: str) -> None:
    Path("logs").mkdir(exist_ok=True)
    for copy in (Path("logs/log.parquet"), Path("data/new.parquet")):
        copy.write_bytes(Path("log.parquet").read_bytes())
    before = contents(world)
    overwrite = [] if words[0] == "tune" else ["--overwrite"]
    result = run(*words, *overwrite)
    assert (result.exit_code, sentence in result.stderr) == (1, True), result.output
    assert contents(world) == before
    Path("data/new.parquet").unlink()


@pytest.mark.parametrize("command", ["prepare", "export"])
def test_files_of_others_in_a_folder_keep_it_from_being_replaced(world: Path, command: str) -> None:
    mine = world / str(WRITES[command]) / "notes" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    result = run(*COMMANDS[command], str(WRITES[command]), "--overwrite")
    assert result.exit_code == 1
    assert "also holds 'notes/mine.txt', which crossfeed did not write" in result.stderr
    assert mine.read_text() == "mine"
    mine.unlink()
    mine.parent.rmdir()


def test_a_run_is_replaced_and_files_of_others_in_it_stay(world: Path) -> None:
    mine = world / "run" / "mine.txt"
    mine.write_text("mine")
    done(*COMMANDS["train"], "run", "--overwrite")
    assert mine.read_text() == "mine"
    mine.unlink()
    assert not (world / "run" / "results.json").exists()  # it was of the former weights


@pytest.mark.parametrize("command", [name for name in REPLACES if name != "train"])
def test_like_replaces_like(world: Path, command: str) -> None:
    if command == "simulate":  # the others are made of this log
        for suffix in (".parquet", ".truth.safetensors"):
            shutil.copy(f"log{suffix}", f"second{suffix}")
        place = "second.parquet"
    else:
        place = str(WRITES[command])
    done(*COMMANDS[command], place, "--overwrite")


def test_the_page_of_a_run_is_written_again_without_being_asked(world: Path) -> None:
    for _ in range(2):
        done("report", "run", "--examples", "0")
    assert "<html" in Path("run/report.html").read_text("utf-8")


def test_a_former_demonstration_is_known_again_and_nothing_else(tmp_path: Path) -> None:
    require_folder(tmp_path, DEMO, overwrite=True)
    (tmp_path / "clicks.parquet").write_text("mine")
    with pytest.raises(OutputError, match="a folder that crossfeed did not write"):
        require_folder(tmp_path, DEMO, overwrite=True)
    write_json(tmp_path / "demo.json", {"format_version": 1, "crossfeed": "1", "demo": True})
    require_folder(tmp_path, DEMO, overwrite=True)


@pytest.mark.parametrize("kind", FOLDERS, ids=lambda kind: kind.name)
def test_a_folder_of_others_is_never_replaced(tmp_path: Path, kind: object) -> None:
    (tmp_path / "thesis.tex").write_text("three years of work")
    with pytest.raises(OutputError, match="a folder that crossfeed did not write") as caught:
        require_folder(tmp_path, kind, overwrite=True)  # type: ignore[arg-type]
    assert caught.value.hint == "choose another --out, or remove the folder yourself"


@pytest.mark.parametrize("text", ["{}", '"crossfeed"', "{", '{"format_version": 2}', "[1]"])
@pytest.mark.parametrize(
    ("kind", "mark"),
    [
        (DATASET, "manifest.json"),
        (RUN, "config.json"),
        (BUNDLE, "bundle.json"),
        (DEMO, "demo.json"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_of_that_name_alone_does_not_make_a_folder_crossfeed_s(
    tmp_path: Path, kind: object, mark: str, text: str
) -> None:
    (tmp_path / mark).write_text(text)
    with pytest.raises(OutputError, match="a folder that crossfeed did not write"):
        require_folder(tmp_path, kind, overwrite=True)  # type: ignore[arg-type]


def test_a_folder_that_holds_two_kinds_is_not_replaced(world: Path, tmp_path: Path) -> None:
    for name in ("data/manifest.json", "run/config.json"):
        (tmp_path / Path(name).name).write_bytes((world / name).read_bytes())
    for kind, other in ((DATASET, RUN), (RUN, DATASET)):
        with pytest.raises(OutputError, match=f"is a {other.name}; only a {kind.name}"):
            require_folder(tmp_path, kind, overwrite=True)


def test_an_empty_folder_and_an_empty_file_hold_nothing_to_lose(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.touch()
    require_file(file, REPORT, overwrite=True)
    (tmp_path / "new").mkdir()
    require_folder(tmp_path / "new", DATASET, overwrite=True)


def test_a_device_is_no_place_for_an_output(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is not an ordinary file"):
        require_file(Path("/dev/null"), REPORT, overwrite=True)


def test_a_link_to_a_log_is_seen_through(world: Path) -> None:
    link = world / "page.html"
    link.symlink_to("log.parquet")
    result = run("report", "run", "--examples", "0", "--out", "page.html", "--overwrite")
    assert (result.exit_code, "is not a report" in result.stderr) == (1, True)
    assert link.is_symlink()
    link.unlink()


@pytest.mark.parametrize("name", [".", "..", "run/..", "/"])
def test_a_place_without_a_name_is_refused(world: Path, name: str) -> None:
    for command in ("prepare", "train", "export", "report"):
        result = run(*COMMANDS[command], name)
        assert (result.exit_code, "error: " in result.stderr) == (1, True), result.output


@pytest.mark.parametrize("command", ["recommend", "generate", "histories", "simulate"])
def test_the_suffix_chooses_the_format(world: Path, command: str) -> None:
    files = {suffix: f"{command}-{suffix}.{suffix}" for suffix in ("parquet", "jsonl", "csv")}
    for file in files.values():
        done(*COMMANDS[command], file)
        done(*COMMANDS[command], file, "--overwrite")
    rows = pq.read_table(files["parquet"]).to_pylist()
    lines = Path(files["jsonl"]).read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows
    text = Path(files["csv"]).read_text("utf-8").splitlines()
    assert text[0] == ",".join(f'"{name}"' for name in rows[0])
    assert len(text) == len(rows) + 1


@pytest.mark.parametrize("command", ["recommend", "generate", "histories", "simulate"])
@pytest.mark.parametrize("name", ["x.txt", "x", "x.csv.gz", "x.CSV"])
def test_another_suffix_is_refused(world: Path, command: str, name: str) -> None:
    result = run(*COMMANDS[command], name)
    assert result.exit_code == 1
    assert f"'{name}' must end in .parquet, .csv or .jsonl" in result.stderr
    assert not Path(name).exists()


def test_a_file_of_events_is_a_log_in_each_format(world: Path) -> None:
    for suffix in (".parquet", ".csv", ".jsonl"):
        name = f"again{suffix}"
        done("histories", "export", "bundle", "--out", name)
        assert run("validate", name).exit_code == 0
