"""Which runs are one scorer, and which cannot be compared."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from planted import tiny_config
from typer.testing import CliRunner, Result

from crossfeed import __version__
from crossfeed.cli import app
from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import RunError
from crossfeed.evaluation.baselines import BASELINES
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.evaluation.outcomes import Outcomes, read_outcomes, write_outcomes
from crossfeed.run import Run
from crossfeed.studies.comparison import contests, entrants

METRIC = "ndcg@10"

Judged = Callable[..., Run]


@pytest.fixture
def judged(last_out: Dataset, tmp_path: Path) -> Judged:
    """Return a function that makes a run whose own outcomes are those of a baseline, shifted."""

    def make(
        name: str, *, scorer: str = "item-knn", shift: float = 0.0, part: Part = Part.TEST, **train
    ) -> Run:
        run = Run.create(
            tmp_path / name, dataset=last_out, config=tiny_config(**train), overwrite=False
        )
        baseline = "live-popularity" if scorer == "popularity" else "popularity"
        results = evaluate(BASELINES[scorer](last_out), last_out, part=part, baselines=[baseline])
        run.write_results(results)
        if shift:
            shift_own(run, shift)
        return run

    return make


def shift_own(run: Run, shift: float) -> None:
    """Add `shift` to every value of the run's own scorer."""
    file = run.path / "outcomes.parquet"
    own, *others = read_outcomes(file)
    values = {name: each + shift for name, each in own.values.items()}
    write_outcomes(file, [dataclasses.replace(own, values=values), *others])


def own(run: Run) -> Outcomes:
    return read_outcomes(run.path / "outcomes.parquet")[0]


def command(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, words)])


def test_trainings_that_differ_in_the_seed_are_one_entrant(judged: Judged) -> None:
    runs = [
        judged("ours-0", shift=0.1),
        judged("ours-4", seed=4, shift=0.3, device="cpu", checkpoint_minutes=1, track=["mlflow"]),
        judged("theirs", learning_rate=0.5),
    ]
    ours, theirs = entrants(runs)
    assert (ours.name, ours.seeds) == ("ours-0 (2 seeds)", (0, 4))
    assert ours.runs == (str(runs[0].path), str(runs[1].path))
    assert (theirs.name, theirs.seeds) == ("theirs", (0,))
    np.testing.assert_allclose(ours.outcomes.values[METRIC], own(runs[2]).values[METRIC] + 0.2)


def test_seeds_are_averaged_before_anything_is_tested(judged: Judged) -> None:
    """One seed is ahead by as much as the other is behind; taken singly both would be sure."""
    runs = [judged("a", shift=0.2), judged("b", shift=-0.2, seed=1)]
    rival = judged("rival", learning_rate=0.5)
    (contest,) = contests(entrants([*runs, rival]), metric=METRIC)
    for one in contest.comparisons:
        assert one.difference == pytest.approx(0)
        assert (one.p, one.better) == (1.0, "not sure")
    for run, better in zip(runs, ("first", "second"), strict=True):
        (single,) = contests(entrants([run, rival]), metric=METRIC)
        assert {one.better for one in single.comparisons} == {better}


def test_p_is_adjusted_over_all_contests(judged: Judged) -> None:
    runs = [judged("ours"), judged("theirs", learning_rate=0.5, scorer="popularity")]
    made = contests(entrants(runs, baselines=["popularity"]), metric=METRIC)
    assert [contest.second.name for contest in made] == ["theirs", "popularity"]
    every = [one for contest in made for one in contest.comparisons]
    assert len(every) == 2 * (2 + 3)
    assert all(one.p <= one.p_holm <= 1 for one in every)
    least = min(every, key=lambda one: one.p)
    assert least.p_holm == pytest.approx(least.p * len(every))
    micro = made[0].comparisons[0]
    assert (micro.scope, micro.better) == ("micro", "first")


def test_a_single_scorer_meets_all_its_baselines_and_others_none(judged: Judged) -> None:
    run, rival = judged("ours"), judged("theirs", learning_rate=0.5)
    assert [one.name for one in entrants([run])] == ["ours", "popularity"]
    assert [one.name for one in entrants([run, rival])] == ["ours", "theirs"]
    assert [one.name for one in entrants([run], baselines=[])] == ["ours"]


def test_another_version_of_crossfeed_is_another_scorer(judged: Judged) -> None:
    run, older = judged("new"), judged("old")
    older.facts["crossfeed"] = f"{__version__}.dev0"
    assert [one.name for one in entrants([run, older])] == ["new", "old"]


def test_folders_of_one_name_are_told_apart(judged: Judged) -> None:
    runs = [judged("x/run"), judged("y/run", learning_rate=0.5)]
    assert [one.name for one in entrants(runs)] == [str(run.path) for run in runs]


def test_the_same_seed_twice_is_refused(judged: Judged) -> None:
    run, again = judged("run"), judged("again")
    for twin in (run, again):
        with pytest.raises(RunError, match="have the same settings and the same seed, 0: one"):
            entrants([run, twin])


def test_one_scorer_alone_is_refused(judged: Judged) -> None:
    with pytest.raises(RunError, match="'run', has nothing to be compared with"):
        contests(entrants([judged("run")], baselines=[]), metric=METRIC)


def test_a_baseline_that_was_not_evaluated_is_named(judged: Judged) -> None:
    with pytest.raises(RunError, match="not evaluated beside 'ease'; beside: popularity"):
        entrants([judged("run")], baselines=["ease"])


def test_a_run_that_was_not_evaluated_is_refused(judged: Judged) -> None:
    run = judged("run")
    (run.path / "outcomes.parquet").unlink()
    with pytest.raises(RunError, match="run' has not been evaluated\nhint: crossfeed evaluate"):
        entrants([run])


def test_results_that_cannot_be_read_are_refused(judged: Judged) -> None:
    run = judged("run")
    (run.path / "results.json").write_text("[]")
    with pytest.raises(RunError, match=r"results.json' cannot be read"):
        entrants([run])


def test_another_part_is_refused(judged: Judged) -> None:
    runs = [judged("tested"), judged("validated", seed=1, part=Part.VALIDATION)]
    with pytest.raises(RunError, match=r"evaluated on the validation part, .* on the test part"):
        entrants(runs)


def test_another_dataset_is_refused(judged: Judged) -> None:
    run, elsewhere = judged("run"), judged("elsewhere", seed=1)
    elsewhere.facts["dataset_hash"] = "0"
    with pytest.raises(RunError, match="trained on different datasets"):
        entrants([run, elsewhere])


def test_other_events_of_the_same_part_are_refused(judged: Judged) -> None:
    run, other = judged("run"), judged("other", seed=1)
    one = own(other)
    fewer = dataclasses.replace(
        one,
        events=one.events[1:],
        users=one.users[1:],
        domains=one.domains[1:],
        values={name: each[1:] for name, each in one.values.items()},
    )
    write_outcomes(other.path / "outcomes.parquet", [fewer])
    with pytest.raises(RunError, match=r"run' and '.*other' were not judged on the same events"):
        entrants([run, other])


def test_the_command_prints_a_table_per_contest(judged: Judged) -> None:
    runs = [judged("ours-0"), judged("ours-1", seed=1)]
    rival = judged("theirs", learning_rate=0.5, shift=-0.1)
    shown = command(*(run.path for run in [*runs, rival]), "--baselines", "popularity")
    assert shown.exit_code == 0, shown.output
    lines = [line.strip() for line in shown.stdout.splitlines()]
    assert lines[0] == f"ours-0 (2 seeds) is the mean of {runs[0].path}, {runs[1].path}"
    assert "ndcg@10, test part: ours-0 (2 seeds) against theirs" in lines
    assert "ndcg@10, test part: ours-0 (2 seeds) against popularity" in lines
    micro = next(line.split("  ") for line in lines if line.startswith("all clicks (micro)"))
    cells = [cell.strip() for cell in micro if cell.strip()]
    mean = own(rival).values[METRIC].mean()
    assert cells[1:3] == ["360", "120"]
    assert cells[4].startswith(f"{mean:.4f} (") and " .. " in cells[4]
    assert cells[5] == "+0.1000 (+0.1000 .. +0.1000)"
    assert cells[6:8] == ["<0.0001", "0.0010"]  # 1 / 10,001; 10 rows
    assert cells[-1] == "ours-0 (2 seeds)"
    assert "note: fewer than 3 seeds of ours-0 (2 seeds), theirs: this speaks of" in shown.stderr


def test_the_command_prints_json(judged: Judged) -> None:
    runs = [judged("ours"), judged("theirs", learning_rate=0.5, shift=0.1)]
    shown = command(*(run.path for run in runs), "--metric", "auc", "--json")
    assert shown.exit_code == 0, shown.output
    answer = json.loads(shown.stdout)
    assert (answer["metric"], answer["part"]) == ("auc", "test")
    assert answer["scorers"][0] == {"name": "ours", "runs": [str(runs[0].path)], "seeds": [0]}
    (contest,) = answer["contests"]
    assert (contest["first"], contest["second"]) == ("ours", "theirs")
    micro = contest["comparisons"][0]
    assert micro["scope"] == "micro" and micro["better"] == "second"
    assert micro["first"] == pytest.approx(own(runs[0]).values["auc"].mean())
    assert micro["difference"] == pytest.approx(-0.1)
    assert micro["low"] == pytest.approx(-0.1) and micro["events"] == 360


def test_a_run_is_named_even_from_within(judged: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(judged("ours").path)
    assert "test part: ours against popularity" in command(".").stdout


def test_the_command_refuses_a_metric_that_is_not_there(judged: Judged) -> None:
    shown = command(judged("ours").path, "--metric", "ndcg@7")
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert "'ours' has no metric 'ndcg@7'; it has: ndcg@10, " in shown.stderr


def test_a_copy_of_a_run_is_no_other_training(judged: Judged, tmp_path: Path) -> None:
    run = judged("run")
    shutil.copytree(run.path, tmp_path / "copy")
    shown = command(run.path, tmp_path / "copy")
    assert shown.exit_code == 1
    assert "hint: name each training once" in shown.stderr
