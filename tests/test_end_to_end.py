"""The whole line, by the very commands that the README shows, then over HTTP."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from readme import ROOT, blocks, commands
from typer.testing import CliRunner, Result

import crossfeed
from crossfeed.cli import app
from crossfeed.serving.histories.url import open_store
from crossfeed.serving.http.app import create_app

SMALLER = {
    "simulate": ["--users", "1200", "--items", "400", "--events", "12000"],
    "train": ["--set", "train.epochs=2", "--set", "model.width=16", "--set", "train.candidates=20"],
}
"""What is added to the README's commands, so that the line takes seconds."""


def run(*words: str) -> Result:
    result = CliRunner().invoke(app, list(words), prog_name="crossfeed")
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Result]]:
    """Run the README's commands in an empty folder; stay there while the tests run."""
    shown = [words for words in commands(ROOT / "README.md", "crossfeed") if words[0] != "serve"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("readme"))
        yield {words[0]: run(*words, *SMALLER.get(words[0], [])) for words in shown}


@pytest.fixture
def service(line: dict[str, Result], tmp_path: Path) -> Iterator[TestClient]:
    bundle = crossfeed.Bundle.load("bundle")
    store = open_store(f"sqlite:///{tmp_path}/histories.sqlite")
    with TestClient(create_app(bundle, store=store)) as client:
        yield client


def test_the_readme_shows_the_line_in_order(line: dict[str, Result]) -> None:
    order = [
        "simulate",
        "validate",
        "prepare",
        "train",
        "evaluate",
        "compare",
        "report",
        "export",
        "recommend",
    ]
    assert list(line) == order


def test_each_command_names_the_next(line: dict[str, Result]) -> None:
    for name, following in [
        ("simulate", "crossfeed prepare clicks.parquet"),
        ("prepare", "crossfeed train data"),
        ("train", "crossfeed evaluate run"),
        ("evaluate", "crossfeed compare run"),
        ("compare", "crossfeed report run"),
        ("report", "crossfeed export run --out BUNDLE"),
        ("export", "crossfeed serve bundle"),
        ("recommend", "crossfeed serve bundle"),
    ]:
        assert f"next: {following}" in line[name].stderr


def test_the_readmes_python_works_after_its_shell(
    line: dict[str, Result], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run the blocks in their order, in the folder that the commands left, with a small network."""
    small = crossfeed.load_config(overrides=SMALLER["train"][1::2])
    monkeypatch.setattr(crossfeed, "train", functools.partial(crossfeed.train, config=small))
    names: dict[str, Any] = {}  # Any: what the blocks define
    for block in blocks(ROOT / "README.md", "python"):
        exec(compile(block, "README.md", "exec"), names)
    shown = capsys.readouterr().out
    assert "'ndcg@10': 0." in shown
    assert "Recommendation(item_id=" in shown
    dataset = names["dataset"]
    assert repr(dataset).startswith(f"<Dataset 'data-2': {len(dataset.event_item):,} clicks of ")
    assert repr(crossfeed.Bundle.load("bundle")).startswith("<Bundle 'bundle': ")
    with pytest.raises(crossfeed.CrossfeedError, match="query must be of type Query; it is of typ"):
        names["recommender"].recommend_many([{"user_id": "user-0001", "domains": {"books": 10}}])


def test_the_table_shows_every_domain_beside_both_baselines(line: dict[str, Result]) -> None:
    table = line["evaluate"].stdout
    for domain in crossfeed.Dataset.load("data").catalogue.domains:
        assert f"\n {domain} " in table
    for name in ("popularity", "item-knn", "all clicks (micro)", "all domains (macro)"):
        assert name in table


def test_results_are_kept_and_printed_alike(line: dict[str, Result]) -> None:
    printed = json.loads(run("evaluate", "run", "--json").stdout)
    assert printed == json.loads(Path("run/results.json").read_text("utf-8"))
    assert {"micro", "macro", "domains", "baselines"} <= printed.keys()
    assert printed["baselines"].keys() == {"popularity", "item-knn", "live-popularity", "demand"}
    assert printed["protocol"] == "live"
    assert printed["frozen"]["protocol"] == "frozen"
    assert printed["frozen"]["micro"] != printed["micro"]
    assert all(0 < printed["micro"][metric] < 1 for metric in ("ndcg@10", "recall@10", "auc"))


def test_chosen_part_and_baselines(line: dict[str, Result]) -> None:
    words = ["evaluate", "run", "--part", "validation", "--baselines", "", "--json"]
    printed = json.loads(run(*words).stdout)
    assert (printed["part"], printed["baselines"]) == ("validation", {})


def test_the_length_of_lists_may_be_chosen(line: dict[str, Result]) -> None:
    words = ["evaluate", "run", "--part", "validation", "--baselines", ""]
    printed = run(*words, "-k", "3")
    assert "ndcg@3" in printed.stdout
    assert "@10" not in printed.stdout
    run("evaluate", "run")  # as the tests beside this one expect


def test_clicks_on_unknown_items_are_counted(line: dict[str, Result]) -> None:
    kept = json.loads(Path("run/results.json").read_text("utf-8"))
    unknown = round(kept["unknown_share"] * kept["events"])
    told = f"{unknown:,} of {kept['events']:,} clicks ({kept['unknown_share']:.1%}) are on items"
    assert (told in line["evaluate"].stderr) == (unknown > 0)


def test_an_unknown_baseline_lists_those_that_there_are(line: dict[str, Result]) -> None:
    result = CliRunner().invoke(app, ["evaluate", "run", "--baselines", "knn"])
    assert result.exit_code == 1
    assert (
        "baseline 'knn' is unknown; it is one of: popularity, live-popularity, demand, item-knn"
        in result.stderr
    )


def test_a_finished_run_is_resumed_as_it_is(line: dict[str, Result]) -> None:
    before = Path("run/metrics.jsonl").read_text("utf-8")
    run("train", "data", "--out", "run", "--resume")
    words = ["train", "data", "--out", "run", "--resume", "--set", "train.epochs=9"]
    refused = CliRunner().invoke(app, words)
    assert (refused.exit_code, "train.epochs = 9, the run has 2" in refused.stderr) == (1, True)
    assert Path("run/metrics.jsonl").read_text("utf-8") == before


def test_of_a_training_that_was_broken_off_it_is_said_how_it_goes_on(
    line: dict[str, Result], tmp_path: Path
) -> None:
    def broken_off(epoch: int, value: float) -> None:
        raise InterruptedError

    dataset, config = crossfeed.Dataset.load("data"), crossfeed.Run.open("run").config
    out = tmp_path / "run"
    with pytest.raises(InterruptedError):
        crossfeed.train(dataset, out=out, config=config, after_epoch=broken_off)
    told = f"after epoch 1 of 2; continue it with: crossfeed train {dataset.path.resolve()} "
    evaluate = ("evaluate", str(out), "--baselines", "")
    export = ("export", str(out), "--out", str(tmp_path / "bundle"), "--without-onnx")
    for words in (evaluate, export):
        assert f"{told}--out {out} --resume" in run(*words).stderr
    crossfeed.train(dataset, out=out, config=config, resume=True)
    for words in (evaluate, (*export, "--overwrite")):
        assert "not finished" not in run(*words).stderr


def test_the_bundle_scores_as_the_run(line: dict[str, Result]) -> None:
    opened = crossfeed.Run.open("run")
    dataset = opened.dataset()
    histories = dataset.histories(dataset.events(crossfeed.Part.TEST)[:50], crossfeed.Part.TEST)
    for domain in range(len(dataset.catalogue.domains)):
        moment = dataset.end(crossfeed.Part.TEST)
        trained = opened.scorer().score(histories, domain, moment)
        served = crossfeed.Bundle.load("bundle").scorer.score(histories, domain, moment)
        np.testing.assert_allclose(served, trained, atol=1e-5)


def test_recommendations_are_new_to_the_user(line: dict[str, Result]) -> None:
    words = ["recommend", "bundle", "--domain", "videos", "--user", "user-0001", "--json"]
    items = [item["item_id"] for item in json.loads(run(*words).stdout)["items"]]
    log = pq.read_table("clicks.parquet").to_pandas()
    seen = log[(log.user_id == "user-0001") & (log.domain == "videos")].item_id
    assert len(items) == 10
    assert not set(items) & set(seen)


def test_the_command_and_python_agree(line: dict[str, Result]) -> None:
    words = ["recommend", "bundle", "--domain", "books", "--user", "user-0001", "--json"]
    printed = [item["item_id"] for item in json.loads(run(*words).stdout)["items"]]
    recommender = crossfeed.Recommender.load("bundle")
    found = recommender.recommend(user_id="user-0001", domain="books")
    assert printed == [item.item_id for item in found.items]
    assert f"\n {printed[0]} " in line["recommend"].stdout


def test_a_history_in_a_file_stands_for_a_user(line: dict[str, Result], tmp_path: Path) -> None:
    log = pq.read_table("clicks.parquet").to_pandas()
    own = log[log.user_id == "user-0001"][["item_id", "domain", "timestamp"]]
    file = tmp_path / "history.json"
    file.write_text(own.to_json(orient="records"), "utf-8")
    words = ["recommend", "bundle", "--domain", "videos", "--json"]
    by_history = json.loads(run(*words, "--history", str(file)).stdout)
    assert by_history == json.loads(run(*words, "--user", "user-0001").stdout)


def test_a_file_that_is_no_history_is_refused_with_all_problems(
    line: dict[str, Result], tmp_path: Path
) -> None:
    file = tmp_path / "history.json"
    file.write_text('[{"item_id": 1.5, "domain": "books", "timestamp": 1}, {"domain": 3}]', "utf-8")
    words = ["recommend", "bundle", "--domain", "books", "--history", str(file)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    for problem in ("0.item_id", "0.timestamp", "1.item_id", "1.domain", "hint: it must be a JSON"):
        assert problem in result.stderr


def test_an_unknown_user_gets_what_is_popular_and_is_told(line: dict[str, Result]) -> None:
    words = ["recommend", "bundle", "--domain", "books", "--user", "nobody", "-k", "3"]
    result = run(*words)
    assert result.stdout.count("recent") == 3
    assert "nothing is known of this user" in result.stderr


def test_an_unknown_domain_lists_the_domains(line: dict[str, Result]) -> None:
    words = ["recommend", "bundle", "--domain", "boks", "--user", "user-0001"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    domains = ", ".join(crossfeed.Dataset.load("data").catalogue.domains)
    assert f"domain 'boks' is unknown; it is one of: {domains}" in result.stderr


def test_all_users_go_to_a_file(line: dict[str, Result], tmp_path: Path) -> None:
    out = tmp_path / "all.parquet"
    run("recommend", "bundle", "--all", "--domain", "books", "-k", "2", "--out", str(out))
    table = pq.read_table(out).to_pandas()
    assert table.groupby("user_id").size().eq(2).all()
    known = pq.read_table("bundle/histories.parquet", columns=["user_id"])["user_id"]
    assert set(table.user_id) == set(known.to_pylist())


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--domain", "books"],
        ["--user", "u"],
        ["--domain", "books", "--user", "u", "--history", "h"],
        ["--all"],
        ["--all", "--out", "x", "--user", "u"],
    ],
)
def test_who_is_asked_for_must_be_clear(words: list[str]) -> None:
    assert CliRunner().invoke(app, ["recommend", "bundle", *words]).exit_code == 2


def test_histories_are_exported_forgotten_and_loaded(
    line: dict[str, Result], tmp_path: Path
) -> None:
    store = ["--history-store", f"sqlite:///{tmp_path}/h.sqlite"]
    saved, left = tmp_path / "saved.parquet", tmp_path / "left.parquet"
    run("histories", "export", "bundle", "--out", str(saved), *store)
    assert "erased" in run("histories", "forget", "bundle", "user-0001", *store).stderr
    run("histories", "export", "bundle", "--out", str(left), *store)
    before, after = (pq.read_table(file)["user_id"].to_pylist() for file in (saved, left))
    assert [user for user in before if user != "user-0001"] == after
    assert "user-0001" in before
    other = ["--history-store", f"sqlite:///{tmp_path}/other.sqlite"]
    assert "events are new" in run("histories", "load", "bundle", str(left), *other).stderr


def test_bundle_and_dataset_are_validated(line: dict[str, Result]) -> None:
    assert "the dataset 'data' is whole" in run("validate", "data").stderr
    assert "the bundle 'bundle' is whole" in run("validate", "bundle").stderr


def test_the_service_answers_as_the_command(service: TestClient) -> None:
    words = ["recommend", "bundle", "--domain", "books", "--user", "user-0001", "--json"]
    printed = json.loads(run(*words).stdout)
    answer = service.get("/v1/users/user-0001/recommendations", params={"domain": "books"}).json()
    assert answer["items"] == printed["items"]
    assert answer["model_version"] == printed["model_version"]


def test_the_next_answer_knows_a_new_event(service: TestClient) -> None:
    url, domain = "/v1/users/somebody/recommendations", {"domain": "videos"}
    before = service.get(url, params=domain).json()
    assert before["fallback"] == "recent"
    clicked = before["items"][0]["item_id"]
    event = {"event_id": "1", "user_id": "somebody", "item_id": clicked, "domain": "videos"}
    stored = service.post("/v1/events", json={"events": [{**event, "timestamp": 1_700_000_000}]})
    assert stored.json() == {"accepted": 1, "duplicates": 0}
    after = service.get(url, params=domain).json()
    assert after["fallback"] is None
    assert clicked not in [item["item_id"] for item in after["items"]]


def test_what_is_exported_without_histories_knows_nobody(
    line: dict[str, Result], tmp_path: Path
) -> None:
    run("export", "run", "--out", str(tmp_path / "b"), "--without-histories", "--without-onnx")
    assert not (tmp_path / "b" / "histories.parquet").exists()
    words = ["recommend", str(tmp_path / "b"), "--domain", "books", "--user", "user-0001", "--json"]
    assert json.loads(run(*words).stdout)["fallback"] == "recent"
