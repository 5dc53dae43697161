"""Which runs are one scorer, and which cannot be compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from planted import planted_log, tiny_config
from typer.testing import CliRunner

from crossfeed.cli import app
from crossfeed.config import DataConfig
from crossfeed.data.dataset import Dataset, Part
from crossfeed.data.prepare import prepare
from crossfeed.errors import RunError
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.experiments.comparison import contests, entrants
from crossfeed.run import Run
from crossfeed.training.trainer import train


@pytest.fixture(scope="module")
def runs(last_out: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    trained = {}
    for name, settings in {
        "good-0": {"epochs": 5, "patience": 5},
        "good-1": {"epochs": 5, "patience": 5, "seed": 1},
        "bad": {"epochs": 1, "learning_rate": 1e-6},
    }.items():
        run = train(last_out, out=folder / name, config=tiny_config(**settings))
        run.write_results(evaluate(run, last_out, baselines=["popularity"]))
        trained[name] = run
    return trained


def test_trainings_that_differ_in_the_seed_are_one_entrant(runs: dict[str, Run]) -> None:
    found = entrants(list(runs.values()), baselines=["popularity"])
    assert [one.name for one in found] == ["good-0 (2 seeds)", "bad", "popularity"]
    both = [
        evaluate(runs[name], runs[name].dataset()).micro["ndcg@10"] for name in ("good-0", "good-1")
    ]
    assert found[0].outcomes.values["ndcg@10"].mean() == pytest.approx(np.mean(both))


def test_the_better_one_is_found_and_p_is_adjusted_over_all(runs: dict[str, Run]) -> None:
    against_bad, against_popularity = contests(
        entrants(list(runs.values()), baselines=["popularity"]), metric="ndcg@10"
    )
    micro = against_bad.comparisons[0]
    assert micro.scope == "micro" and micro.difference > 0.05 and micro.p_holm < 0.05
    every = [*against_bad.comparisons, *against_popularity.comparisons]
    assert all(one.p <= one.p_holm <= 1 for one in every)
    least = min(every, key=lambda one: one.p)
    assert least.p_holm == pytest.approx(least.p * len(every))


def test_the_command_prints_tables_and_json(runs: dict[str, Run]) -> None:
    paths = [str(run.path) for run in runs.values()]
    shown = CliRunner().invoke(app, ["compare", *paths], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "good-0 (2 seeds) against bad" in shown.stdout
    assert "all clicks (micro)" in shown.stdout
    answer = CliRunner().invoke(app, ["compare", *paths, "--baselines", "popularity", "--json"])
    contests_found = json.loads(answer.stdout)
    assert [one["second"]["name"] for one in contests_found] == ["bad", "popularity"]
    assert contests_found[0]["first"]["runs"] == paths[:2]


def test_one_scorer_alone_is_refused(runs: dict[str, Run]) -> None:
    with pytest.raises(RunError, match="'bad', has nothing to be compared with"):
        contests(entrants([runs["bad"]]), metric="ndcg@10")


def test_a_baseline_that_was_not_evaluated_is_named(runs: dict[str, Run]) -> None:
    with pytest.raises(RunError, match="not evaluated beside 'item-knn'; beside: popularity"):
        entrants([runs["bad"]], baselines=["item-knn"])


def test_other_ground_is_refused(runs: dict[str, Run], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(runs["bad"].path, bare)
    (bare / "outcomes.parquet").unlink()
    with pytest.raises(RunError, match="bare' has not been evaluated"):
        entrants([runs["good-0"], Run.open(bare)])
    run = runs["bad"]
    shutil.copytree(run.path, tmp_path / "validated")
    validated = Run.open(tmp_path / "validated")
    validated.write_results(evaluate(validated, validated.dataset(), part=Part.VALIDATION))
    with pytest.raises(RunError, match=r"evaluated on the validation part, .* on the test part"):
        entrants([run, validated])
    data = DataConfig(split="last-out", min_domain_events=10)
    other = prepare(planted_log(users=60), out=tmp_path / "data", config=data)
    elsewhere = train(other, out=tmp_path / "elsewhere", config=tiny_config(epochs=1))
    elsewhere.write_results(evaluate(elsewhere, other))
    with pytest.raises(RunError, match="trained on different datasets"):
        entrants([run, elsewhere])
