"""The command line's manners: streams, exit codes, messages, JSON."""

from __future__ import annotations

import inspect
import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest
from planted import planted_log
from rich.console import Console
from typer.testing import CliRunner, Result

from crossfeed import __version__
from crossfeed.cli import COMMANDS, HISTORIES, app, comparing, output, tables
from crossfeed.cli import data as data_commands
from crossfeed.data.dataset import Dataset
from crossfeed.data.simulate.clicks import simulate
from crossfeed.errors import LogError
from crossfeed.evaluation.evaluate import Results
from crossfeed.evaluation.outcomes import Outcomes
from crossfeed.evaluation.statistics.comparisons import Comparison

NAMES = [name for commands in COMMANDS.values() for name in commands]


def run(*words: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="crossfeed")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "clicks.parquet"
    simulate(path, users=200, items=150, domains=3, events=2_500)
    return path


@pytest.fixture(scope="module")
def dataset(log: Path) -> Path:
    out = log.parent / "dataset"
    assert run("prepare", log, "--out", out).exit_code == 0
    return out


def test_version() -> None:
    assert run("--version").stdout == f"{__version__}\n"


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_the_help_page_lists_every_command(words: list[str]) -> None:
    page = run(*words).output
    assert [name for name in [*NAMES, "histories"] if f" {name} " not in page] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_an_example(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"crossfeed {name}" in result.stdout.split("Options")[0].replace("Usage: crossfeed", "")


@pytest.mark.parametrize("name", HISTORIES)
def test_every_command_on_histories_has_help(name: str) -> None:
    result = run("histories", name, "--help")
    assert result.exit_code == 0
    assert f"crossfeed histories {name}" in result.stdout.replace("Usage: crossfeed", "")


def test_a_known_error_is_one_line_and_a_hint_on_stderr() -> None:
    result = run("train", "nowhere", "--out", "run")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "error: 'nowhere' is not a dataset: it has no manifest.json",
        "hint: make one with: crossfeed prepare LOG --out DATASET",
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["prepare"], "Missing argument"),
        (["prepare", "x.csv"], "Missing option '--out'"),
        (["prepare", "x.csv", "--ou", "y"], "No such option: --ou"),
        (["evaluate", "run", "--part", "train"], "'train' is not one of 'test', 'validation'"),
        (["demo", "--port", "99999"], "'--port': Input should be less than or equal to 65535"),
        (["simulate", "x.parquet", "--seed", "-1"], "'--seed': Input should be greater than or"),
        (["recommend", "b", "--domain", "d", "--user", "u", "--out", "f"], "--out goes with --all"),
        (["train", "d", "--out", "r", "--epochs", "3"], "--set train.epochs=VALUE"),
        (["train", "d", "--out", "r", "--learning-rate", "1"], "--set train.learning_rate=VALUE"),
        (["evaluate", "run", "-k", "0"], "'-k': Input should be greater than or equal to 1"),
        (["predict"], "No such command 'predict'"),
    ],
)
def test_misuse_is_exit_code_2_and_says_what_is_allowed(words: list[str], sentence: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert sentence in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["prepare", "no.csv", "--out", "x"], "there is no file 'no.csv'"),
        (
            ["prepare", "no.csv", "--out", "x", "--source", "y"],
            "source 'y' is unknown",
        ),
        (
            ["prepare", "x", "--out", "y", "--set", "data.spilt=z"],
            "data.spilt is unknown; did you mean data.split?; known",
        ),
        (["prepare", "x", "--out", "y", "--config", "no.toml"], "'no.toml' does not exist"),
        (
            ["train", "x", "--out", "y", "--preset", "z"],
            "preset 'z' is unknown; it is one of: claims",
        ),
        (["evaluate", "no"], "'no' is not a run: it has no config.json"),
        (["export", "no", "--out", "x"], "'no' is not a run: it has no config.json"),
        (["validate", "no"], "there is no file 'no'"),
        (["simulate", "x.txt"], "'x.txt' must end in .parquet, .csv or .jsonl"),
    ],
)
def test_a_known_error_says_what_came_and_what_is_allowed(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert sentence in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "setting"), [("prepare", "train.seed=1"), ("train", "data.split=last-out")]
)
def test_a_setting_of_another_command_is_refused(command: str, setting: str) -> None:
    result = run(command, "x", "--out", "y", "--set", setting)
    assert result.exit_code == 1
    section = setting.split(".")[0]
    assert f"--set {section}.* has no effect here; this command uses" in result.stderr
    assert "data.* belongs to crossfeed prepare" in result.stderr


def test_all_problems_of_a_configuration_are_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[train]\nepoch = 1\n[model]\nwidth = 2\n", "utf-8")
    result = run("train", "x", "--out", "y", "--config", file)
    assert result.exit_code == 1
    assert "train.epoch is unknown" in result.stderr
    assert "model.width = 2" in result.stderr


def test_one_file_of_settings_serves_prepare_and_train(tmp_path: Path, log: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[data]\nsplit = "last-out"\n[train]\nepochs = 1\n', "utf-8")
    result = run("prepare", log, "--out", tmp_path / "d", "--config", file)
    assert result.exit_code == 0
    assert Dataset.load(tmp_path / "d").config.split == "last-out"


def test_data_goes_to_stdout_and_the_rest_to_stderr(tmp_path: Path, log: Path) -> None:
    result = run("prepare", log, "--out", tmp_path / "d", "--json")
    manifest = json.loads(result.stdout)
    assert manifest == Dataset.load(tmp_path / "d").manifest
    assert "prepare: writing" in result.stderr


def test_an_existing_output_is_refused_or_replaced(dataset: Path, log: Path) -> None:
    refused = run("prepare", log, "--out", dataset)
    assert refused.exit_code == 1
    assert "exists already\nhint: choose another --out, or replace it" in refused.stderr
    assert run("prepare", log, "--out", dataset, "--overwrite").exit_code == 0


def test_a_log_is_validated(log: Path) -> None:
    text = run("validate", log)
    assert text.exit_code == 0
    assert "users in several domains" in text.stdout
    report = json.loads(run("validate", log, "--json").stdout)
    assert report["clicks"] == report["rows"] > 1_000


def test_a_dataset_is_validated(dataset: Path) -> None:
    result = run("validate", dataset, "--json")
    answer = json.loads(result.stdout)
    assert answer["path"] == str(dataset) and answer["valid"] and answer["findings"]
    assert "is whole" in result.stderr


def test_a_damaged_dataset_is_found(tmp_path: Path, log: Path) -> None:
    out = tmp_path / "d"
    run("prepare", log, "--out", out)
    times = out / "events" / "time.npy"
    content = bytearray(times.read_bytes())
    content[-1] ^= 1
    times.write_bytes(content)
    result = run("validate", out)
    assert result.exit_code == 1
    assert "time" in result.stderr


def test_sources_state_their_rules() -> None:
    assert "movielens-100k" in run("sources").stdout
    facts = {source["name"]: source for source in json.loads(run("sources", "--json").stdout)}
    assert facts["movielens-100k"]["rules"]


def test_the_sizes_of_a_simulation_are_those_of_the_function() -> None:
    command = inspect.signature(data_commands.simulate).parameters
    function = inspect.signature(simulate).parameters
    for name in ("users", "items", "domains", "events", "seed", "overwrite"):
        assert command[name].default == function[name].default


def _results() -> Results:
    ours = {"ndcg@10": 0.2, "recall@10": 0.4, "mrr": 0.1, "auc": 0.9}
    theirs = {"ndcg@10": 0.1, "recall@10": 0.5, "mrr": 0.1, "auc": 0.8}

    def results(name: str, figures: dict[str, float]) -> Results:
        domain = {"events": 1_234, "unknown_share": 0.0, **figures}
        none = np.zeros(0, np.int64)
        outcomes = Outcomes(name, none, none, np.zeros(0, object), {})
        return Results(name, "test", figures, figures, {"books": domain}, outcomes)

    ours_and_theirs = results("crossfeed", ours)
    ours_and_theirs.baselines["popularity"] = results("popularity", theirs)
    return ours_and_theirs


@pytest.mark.parametrize(("width", "headers"), [(160, 1), (60, 3)])
def test_results_fit_the_terminal(width: int, headers: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    tables.print_results(console, _results())
    lines = console.export_text().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    assert sum(line.strip().startswith("domain ") for line in lines) == headers
    rows = [line.split() for line in lines if line.strip().startswith("books")]
    figures = [word for row in rows for word in row if word.startswith("0.")]
    assert figures == ["0.2000", "0.1000", "0.4000", "0.5000", "0.9000", "0.8000"]
    assert all(row[1] == "1,234" for row in rows)


@pytest.mark.parametrize(("width", "headers"), [(200, 1), (80, 3)])
def test_comparisons_fit_the_terminal(width: int, headers: int) -> None:
    one = Comparison(
        scope="micro",
        metric="ndcg@10",
        events=12_345,
        users=2_345,
        first=0.4129,
        first_low=0.4012,
        first_high=0.4233,
        second=0.3887,
        second_low=0.3801,
        second_high=0.3999,
        low=0.0101,
        high=0.0333,
        p=0.0012,
        p_wilcoxon=0.0021,
        p_holm=0.0096,
    )
    console = Console(width=width, record=True, file=io.StringIO())
    comparing._print_comparisons(console, "run", "item-knn", [one])
    lines = console.export_text().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    assert sum(line.strip().startswith("domain ") for line in lines) == headers
    rows = [line for line in lines if line.strip().startswith("all clicks (micro)")]
    assert len(rows) == headers  # no cell was folded
    text = "".join(rows)
    for cell in ("+0.0242 (+0.0101 .. +0.0333)", "0.4129 (0.4012 .. 0.4233)", "0.0096", "0.0021"):
        assert cell in text


def test_names_that_look_like_markup_are_printed_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"articles": "[/books]", "shopping": "[films]", "videos": "games:heart:"}
    log = tmp_path / "clicks.parquet"
    planted_log().replace({"domain": names}).to_parquet(log)
    for words in (["validate", log], ["prepare", log, "--out", tmp_path / "dataset"]):
        done = run(*words)
        assert done.exit_code == 0, done.output
        assert all(name in done.stdout for name in names.values())
    table = output.make_table("item")
    table.add_row("[videos-087] shoe")
    output.stdout().print(table, "[bold]:heart:")
    shown = capsys.readouterr().out
    assert "[videos-087] shoe" in shown and "[bold]:heart:" in shown


def test_the_demonstration_names_the_command_of_its_own_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def stop(log: Path, **sizes: object) -> None:
        asked.update(sizes)
        raise KeyboardInterrupt

    monkeypatch.setattr("crossfeed.cli.demo.simulate", stop)
    command = " ".join(run("demo", "--out", tmp_path).stdout.split())
    for name in ("users", "items", "domains", "events"):
        assert f"--{name} {asked[name]}" in command


HELD = """
import signal, sys
from crossfeed.cli import main
from crossfeed.data.simulate import clicks

made = clicks._tables
def held(*given):
    for number, table in enumerate(made(*given)):
        if number == 1:  # a part of the file is written
            print("at work", flush=True)
            signal.pause()
        yield table
clicks._tables = held
main()
"""


def test_ctrl_c_is_exit_code_130_and_a_sentence(tmp_path: Path) -> None:
    words = ["simulate", str(tmp_path / "clicks.parquet"), "--users", "10000"]
    with subprocess.Popen(
        [sys.executable, "-c", HELD, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that a script runs in the background would have it ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "at work\n"
            assert list(tmp_path.glob(".*.tmp"))
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate()
        finally:
            process.kill()
    assert (process.returncode, errors) == (130, "stopped\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Query interrupted"),  # what DuckDB makes of the signal
        duckdb.InterruptException("INTERRUPT Error: Interrupted!"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_ctrl_c_within_a_query_is_no_traceback(
    error: Exception, wrapped: bool, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        if wrapped:
            raise LogError("the log cannot be read") from error
        raise error

    monkeypatch.setattr("crossfeed.data.prepare.pipeline.encode", interrupted)
    result = run("prepare", log, "--out", tmp_path / "dataset")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (130, "stopped")
    assert not (tmp_path / "dataset").exists()


def test_ctrl_c_during_the_first_imports_is_no_traceback() -> None:
    code = """
import sys
from importlib.abc import MetaPathFinder

class Interrupts(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "crossfeed.cli":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupts())
from crossfeed.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")


def test_a_closed_pipe_is_no_traceback() -> None:
    command = f"{sys.executable} -m crossfeed sources | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr


def test_a_folder_of_another_kind_is_called_what_it_is(dataset: Path) -> None:
    for words, wanted in [
        (["evaluate", dataset], "is not a run: it has no config.json"),
        (
            ["recommend", dataset, "--domain", "d", "--user", "u"],
            "is not a bundle: it has no bundle.json",
        ),
    ]:
        assert f"'{dataset}' {wanted}; it is a dataset\n" in run(*words).stderr


def test_double_quotes_around_text_are_told(log: Path) -> None:
    result = run("validate", log, "--set", 'data.positive=domain = "music"')
    assert result.exit_code == 1
    assert "text has single quotes, double ones name a column" in result.stderr


def test_a_command_to_go_on_with_is_quoted(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "my data"
    result = run("prepare", log, "--out", out)
    assert f"next: crossfeed train '{out}' --out RUN\n" in result.stderr
