"""Transfer is found where it is planted, and the gate holds back what is bad."""

from __future__ import annotations

import dataclasses
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
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.errors import RunError
from crossfeed.evaluation.outcomes import Outcomes
from crossfeed.run import Run
from crossfeed.studies.transfer import Transfer, find_worse, held_back, measure_transfer
from crossfeed.training.loop.trainer import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("transfer")
    data = DataConfig(split="new-in-domain", min_domain_events=10)
    dataset = prepare(planted_log(users=240), out=folder / "dataset", config=data)
    config = tiny_config(adversary=False, epochs=4, patience=4)
    model = config.model.model_copy(update={"drop_share": 0.3})
    config = config.model_copy(update={"model": model})
    return train(dataset, out=folder / "run", config=config)


@pytest.fixture(scope="module")
def transfer(run: Run) -> Transfer:
    return measure_transfer(run, metric="auc", largest=2)


def written(run: Run) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (run.path / "transfer").rglob("*.pt")}


def test_other_domains_help_where_the_user_is_new(transfer: Transfer) -> None:
    assert len(transfer.domains) == 2
    micro = transfer.against_alone[0]
    assert micro.scope == "micro" and micro.difference > 0.1 and micro.p_holm < 0.05
    # The history in the other domain tells the taste; that in the domain itself is empty.
    matrix, popularity = np.array(transfer.matrix, float), np.array(transfer.popularity, float)
    for target in range(2):
        assert matrix[1 - target, target] > popularity[target] + 0.1
        assert matrix[1 - target, target] > matrix[target, target] + 0.05


def test_without_a_domain_the_third_one_still_helps(transfer: Transfer) -> None:
    without = np.array(transfer.without, float)
    assert np.isnan(np.diag(without)).all()
    off = without[~np.eye(2, dtype=bool)]
    assert (off > np.array(transfer.popularity)[::-1] + 0.05).all()


def test_what_is_trained_is_not_trained_again(run: Run, transfer: Transfer) -> None:
    files = written(run)
    assert len(files) == 2 * (3 + 2 + 2)
    assert measure_transfer(run, metric="auc", largest=2) == transfer
    assert files == written(run)


def test_without_the_only_domain_that_can_be_validated_there_is_no_figure(
    last_out: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = (last_out.event_part == Part.VALIDATION) & (last_out.event_domain > 0)
    part = np.where(elsewhere, np.uint8(Part.TEST), last_out.event_part)
    dataset = dataclasses.replace(last_out, event_part=part)
    monkeypatch.setattr(Run, "dataset", lambda run: dataset)
    config = tiny_config(adversary=False, epochs=1)
    found = measure_transfer(train(dataset, out=tmp_path / "run", config=config), largest=1)
    assert found.domains == ("articles",)
    assert found.without == [[None]] and found.matrix[0][0] is not None


def test_one_domain_is_refused_before_anything_is_ranked(tmp_path: Path) -> None:
    log = planted_log().query("domain == 'videos'")
    data = DataConfig(split="last-out", min_domain_events=10)
    dataset = prepare(log, out=tmp_path / "dataset", config=data)
    run = Run.create(tmp_path / "run", dataset=dataset, config=tiny_config(), overwrite=False)
    shown = CliRunner().invoke(app, ["evaluate", str(run.path), "--transfer"])
    assert shown.exit_code == 1 and "has one domain, 'videos'; transfer is" in shown.stderr
    with pytest.raises(RunError, match="hint: evaluate it without --transfer"):
        measure_transfer(run)


def test_a_good_run_is_not_held_back(run: Run, transfer: Transfer) -> None:
    assert held_back(run) == {}


def test_a_domain_where_the_run_is_worse_than_alone_is_held_back(
    last_out: Dataset, tmp_path: Path
) -> None:
    run = train(last_out, out=tmp_path / "run", config=tiny_config(epochs=6, patience=6))
    assert held_back(run) == {}
    weights = run.read_checkpoint("best")["players"]
    pool = last_out.catalogue.pool(1)
    for player in ("discriminator.scoring_layer", "generator.output_layer"):
        weights[f"{player}.vectors.weight"][pool] = 0  # nobody has a taste in this domain
    run.write_checkpoint("best", {"players": weights})
    reasons = held_back(run)
    assert list(reasons) == ["shopping"]
    assert "training on it alone" in reasons["shopping"] and "on validation" in reasons["shopping"]


def test_among_hundreds_of_domains_the_worst_one_is_held_back() -> None:
    """With 10,000 flips, 300 domains and two rivals the smallest p after Holm would be 0.06."""
    domains, users = [f"{number:03}" for number in range(300)], 40
    domain = np.repeat(np.array(domains, dtype=object), users)

    def outcomes(name: str, values: np.ndarray) -> Outcomes:
        events = np.arange(len(domain))
        return Outcomes(name, events, events % users, domain, {"ndcg@10": values})

    alike = np.full(len(domain), 0.5)
    worse = np.where(domain == "007", 0.1, alike)
    rivals = {"popularity": outcomes("popularity", alike), "alone": outcomes("alone", worse)}
    reasons = find_worse(outcomes("run", worse), rivals)
    assert list(reasons) == ["007"]
    assert "popularity 0.5000" in reasons["007"] and "on validation" in reasons["007"]


def test_the_command_keeps_transfer_and_gate(run: Run, transfer: Transfer, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    command = ["evaluate", str(tmp_path / "run"), "--transfer"]
    shown = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "trained on all domains against on each alone" in shown.stdout
    assert "history in shopping" in shown.stdout and "all but shopping" in shown.stdout
    kept = json.loads((tmp_path / "run" / "transfer.json").read_text("utf-8"))
    assert kept["format_version"] == 1 and len(kept["matrix"]) == 3
    assert Run.open(tmp_path / "run").held_back() == ()
    answer = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(answer.stdout)["transfer"]["domains"] == kept["domains"]
    # A new training removes what was measured with the old one.
    again = Run.create(tmp_path / "run", dataset=run.dataset(), config=run.config, overwrite=True)
    assert not (again.path / "transfer").exists() and not (again.path / "transfer.json").exists()
