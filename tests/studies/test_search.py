"""A search finds the better settings, gives up the worse and survives its end."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from planted import tiny_config
from typer.testing import CliRunner

from crossfeed.cli import app
from crossfeed.config import Config, load_config
from crossfeed.data.dataset import Dataset
from crossfeed.errors import ConfigError, NonFiniteLossError, OutputError, RunError
from crossfeed.run import Run
from crossfeed.studies import search as module
from crossfeed.studies.search import Search, SearchTrial, search
from crossfeed.studies.space import Choices, Range, Space, with_settings

CONFIG = tiny_config(adversary=False, epochs=3, average=0.5)
RATES: Space = {"train.learning_rate": Range(low=1e-6, high=1e-1, log=True)}


class Trained:
    """What is used of a run."""

    def validation_values(self) -> list[float]:
        return [0.5]


def look(dataset: Dataset, out: Path, *, trials: int, space: Space = RATES) -> Search:
    return search(dataset, out=out, config=CONFIG, space=space, trials=trials)


@pytest.fixture(scope="module")
def study(last_out: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Search]:
    out = tmp_path_factory.mktemp("search") / "study"
    return out, look(last_out, out, trials=4)


def test_the_best_settings_are_those_of_the_best_run(study: tuple[Path, Search]) -> None:
    out, found = study
    best = found.best
    assert best is not None and best.value is not None
    runs = {
        run.config.train.learning_rate: max(run.validation_values())
        for run in map(Run.open, sorted((out / "runs").iterdir()))
    }
    assert len(runs) == len(found.trials) == 4
    assert max(runs.values()) == best.value
    assert runs[float(best.settings["train.learning_rate"])] == best.value
    written = load_config(out / "best.toml")
    assert written.train.learning_rate == best.settings["train.learning_rate"]
    assert written == with_settings(CONFIG, best.settings)  # those that all trials share too
    assert found.importances == {"train.learning_rate": pytest.approx(1.0)}


def test_a_rate_of_nothing_learns_nothing(study: tuple[Path, Search]) -> None:
    rates = {float(t.settings["train.learning_rate"]): t.value for t in study[1].trials}
    assert (rates[max(rates)] or 0) > (rates[min(rates)] or 0)


def test_in_two_calls_it_comes_to_the_same_trials(
    study: tuple[Path, Search], last_out: Dataset, tmp_path: Path
) -> None:
    look(last_out, tmp_path / "study", trials=2)
    assert look(last_out, tmp_path / "study", trials=4) == study[1]


def test_what_is_done_is_not_done_again(
    study: tuple[Path, Search], last_out: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "train", None)
    best = study[0] / "best.toml"
    written = best.read_text("utf-8")
    best.unlink()  # as where the process was killed before it was written
    assert look(last_out, study[0], trials=4) == study[1]
    assert best.read_text("utf-8") == written


def test_a_trial_that_was_broken_off_between_two_draws_comes_to_the_same_settings(
    last_out: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "train", lambda *args, **named: Trained())
    space = {**RATES, "model.dropout": Range(low=0.1, high=0.5)}
    whole = look(last_out, tmp_path / "whole", trials=1, space=space)
    suggest = module._suggest

    def killed(trial: object, name: str, *values: object) -> object:
        if name == "model.dropout":
            raise KeyboardInterrupt
        return suggest(trial, name, *values)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_suggest", killed)
        with pytest.raises(KeyboardInterrupt):
            look(last_out, tmp_path / "broken", trials=1, space=space)
    assert look(last_out, tmp_path / "broken", trials=1, space=space) == whole


def test_the_same_settings_are_trained_once(last_out: Dataset, tmp_path: Path) -> None:
    space = {"train.learning_rate": Choices(choices=(0.01,))}
    found = look(last_out, tmp_path, trials=3, space=space)
    assert len({trial.value for trial in found.trials}) == 1
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_trial_below_the_others_is_given_up(
    last_out: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STARTUP_TRIALS", 1)
    monkeypatch.setattr(module, "_WARMUP_EPOCHS", 0)
    space = {"train.learning_rate": Choices(choices=(0.02, 1e-7))}
    found = look(last_out, tmp_path, trials=6, space=space)
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    assert pruned and all(trial.settings == {"train.learning_rate": 1e-7} for trial in pruned)
    assert all(trial.value is None for trial in pruned)
    assert found.best is not None and found.best.settings == {"train.learning_rate": 0.02}


def test_a_training_that_fails_is_one_trial(
    last_out: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **named: object) -> Run:
        raise NonFiniteLossError(what="gap loss", value=math.inf, epoch=1, step=1, domain="x")

    monkeypatch.setattr(module, "train", fails)
    told: list[SearchTrial] = []
    found = search(last_out, out=tmp_path, config=CONFIG, space=RATES, trials=2, tell=told.append)
    assert [trial.state for trial in told] == ["fail", "fail"]
    assert found.best is None and found.importances == {}
    assert not (tmp_path / "best.toml").exists()


def test_a_value_within_a_range_that_is_not_allowed_is_a_failed_trial(
    last_out: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "train", lambda *args, **named: Trained())
    space = {"model.width": Range(low=8, high=16)}
    found = search(last_out, out=tmp_path, config=CONFIG, space=space, trials=6, seed=1)
    odd = [trial for trial in found.trials if int(trial.settings["model.width"]) % 2]
    assert 0 < len(odd) < 6  # model.heads is 2
    assert [trial for trial in found.trials if trial.state == "fail"] == odd
    assert f"model.heads=2 must divide model.width={odd[0].settings['model.width']}" in caplog.text
    assert found.best not in odd


def test_a_killed_search_goes_on_with_the_trial_it_was_in(
    study: tuple[Path, Search], last_out: Dataset, tmp_path: Path
) -> None:
    out, settings = tmp_path / "study", tmp_path / "settings.json"
    settings.write_text(CONFIG.model_dump_json(), "utf-8")
    code = (
        "import sys, pathlib, signal\n"
        "from crossfeed.config import Config\n"
        "from crossfeed.data.dataset import Dataset\n"
        "from crossfeed.run import Run\n"
        "from crossfeed.studies.search import search\n"
        "from crossfeed.studies.space import Range\n"
        "config = Config.model_validate_json(pathlib.Path(sys.argv[3]).read_text())\n"
        "write, written = Run.write_metrics, []\n"
        "def hold(run, lines):\n"
        "    write(run, lines)\n"
        "    written.append(run.path)\n"
        "    if len(set(written)) == 2:\n"
        "        print('in the second trial, after its first epoch', flush=True)\n"
        "        signal.pause()\n"
        "Run.write_metrics = hold\n"
        "space = {'train.learning_rate': Range(low=1e-6, high=1e-1, log=True)}\n"
        "search(Dataset.load(sys.argv[1]), out=pathlib.Path(sys.argv[2]), config=config,"
        " space=space, trials=4)\n"
    )
    command = [sys.executable, "-c", code, str(last_out.path), str(out), str(settings)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in the second trial, after its first epoch\n"
        process.kill()
    assert len(list(out.glob("runs/*/metrics.jsonl"))) == 2
    assert look(last_out, out, trials=4) == study[1]


def test_another_question_in_the_same_folder_is_refused(
    study: tuple[Path, Search], last_out: Dataset, new_in_domain: Dataset
) -> None:
    out, _ = study
    with pytest.raises(RunError, match="holds a search with another space"):
        look(last_out, out, trials=5, space={"model.dropout": Range(low=0.1, high=0.2)})
    with pytest.raises(RunError, match="holds a search with another dataset"):
        look(new_in_domain, out, trials=5)
    with pytest.raises(RunError, match="holds a search with another settings"):
        search(last_out, out=out, config=Config(), space=RATES, trials=5)


def test_a_folder_that_cannot_hold_a_search_is_refused(last_out: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file' is a file; a study of tune is a folder"):
        look(last_out, tmp_path / "file", trials=1)
    (tmp_path / "study.sqlite").write_text("no database " * 100, "utf-8")
    with pytest.raises(RunError, match=r"study\.sqlite' cannot be read: .*not a database"):
        look(last_out, tmp_path, trials=1)


def test_a_space_that_does_not_fit_is_found_before_anything_is_written(
    last_out: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"model\.dropout = 2"):
        look(last_out, tmp_path / "study", trials=1, space={"model.dropout": Range(low=0, high=2)})
    assert not (tmp_path / "study").exists()


def test_the_command_shows_the_best_and_how_to_use_it(last_out: Dataset, tmp_path: Path) -> None:
    space, study = tmp_path / "space.toml", tmp_path / "study"
    space.write_text("[train]\nlearning_rate = {choices = [0.01, 1e-6]}\n", "utf-8")
    command = ["tune", str(last_out.path), "--out", str(study), "--space", str(space)]
    few = ["--trials", "3", "--seed", "1", "--set", "train.epochs=1", "--set", "model.width=8"]
    few += ["--set", "model.demand=false"]  # with it, not to learn is a good beginning
    found = CliRunner().invoke(app, [*command, *few])
    assert found.exit_code == 0, found.output
    assert "the best of 3 trials" in found.stdout and "0.01" in found.stdout
    assert "trial 2: complete" in found.stderr
    assert f"--config {study / 'best.toml'}" in found.stderr.replace("\n", "")
    assert (study / "importances.svg").read_text("utf-8").startswith("<?xml")
    as_json = CliRunner().invoke(app, [*command, *few, "--json"])
    best = json.loads(as_json.stdout)["best"]
    assert best["settings"] == {"train.learning_rate": 0.01}
    other = CliRunner().invoke(app, [*command, "--trials", "3"])
    assert other.exit_code == 1 and "another settings" in other.stderr
