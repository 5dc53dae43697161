"""What a report says is what the run's files say; a browser draws it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from planted import planted_log, tiny_config
from typer.testing import CliRunner

from crossfeed.cli import app
from crossfeed.config import Config, DataConfig, load_config, parse_config
from crossfeed.data.dataset import Dataset, Part
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.errors import MissingExtraError, RunError
from crossfeed.evaluation.baselines import ItemKNN, Popularity
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.evaluation.report.page import render
from crossfeed.run import Run
from crossfeed.scorer import Floats, Histories, Moment
from crossfeed.studies.examples import draw_examples
from crossfeed.studies.repeating import changed_settings, commands
from crossfeed.studies.reporting import make_report, write_report
from crossfeed.training.loop.trainer import train

HOSTILE = '<script>alert("x")</script>&$_^\x07'
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return an evaluated run of which everything has been measured, with hostile names."""
    folder = tmp_path_factory.mktemp("report")
    log = planted_log()
    log["domain"] = log["domain"].replace("videos", HOSTILE)
    log.to_parquet(folder / "my log.parquet")
    data = DataConfig(split="last-out", min_domain_events=10)
    dataset = prepare(folder / "my log.parquet", out=folder / "dataset", config=data)
    run = train(dataset, out=folder / "run", config=tiny_config(epochs=3, seed=5))
    run.write_results(evaluate(run, dataset, baselines=["popularity", "item-knn"]))
    return run


@pytest.fixture(scope="module")
def measured(run: Run) -> Run:
    """Return the run with a transfer matrix and a gate, as `evaluate --transfer` writes them."""
    names = list(run.dataset().catalogue.domains)
    row = [0.1, 0.2, None]
    comparison = {
        **{"scope": "micro", "metric": "ndcg@10", "events": 360, "users": 120},
        **{"first": 0.3, "first_low": 0.2, "first_high": 0.4},
        **{"second": 0.2, "second_low": 0.1, "second_high": 0.3},
        **{"low": 0.05, "high": 0.15, "p": 0.001, "p_wilcoxon": 0.002, "p_holm": 0.005},
    }
    run.write_transfer(
        {
            **{"metric": "ndcg@10", "part": "test", "domains": names},
            **{"popularity": row, "joint": [0.4, 0.5, 0.6], "matrix": [row] * 3},
            **{"without": [row] * 3, "against_alone": [comparison]},
        }
    )
    run.write_gate({names[0]: "ndcg@10 0.1, popularity 0.2, p 0.0010, on validation"})
    return run


class Seen(HTMLParser):
    """What a page holds: its words, and every tag with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_figures_are_those_of_the_run(measured: Run) -> None:
    report = make_report(measured, examples=0)
    results = json.loads((measured.path / "results.json").read_text())
    assert report.quality is not None and list(report.quality.scorers) == [
        "crossfeed",
        "popularity",
        "item-knn",
    ]
    for name, estimates in report.quality.scorers.items():
        own = results if name == "crossfeed" else results["baselines"][name]
        assert estimates[0].mean == pytest.approx(own["micro"]["ndcg@10"])
        by_domain = {one.scope: one.mean for one in estimates[2:]}
        assert by_domain == pytest.approx(
            {domain: figures["ndcg@10"] for domain, figures in own["domains"].items()}
        )
    assert [epoch.number for epoch in report.epochs] == [1, 2, 3]
    lines = measured.metrics()
    best = max(lines, key=lambda line: line["validation"]["micro"]["ndcg@10"])
    assert report.best_epoch == best["epoch"]
    assert report.epochs[1].losses == lines[1]["losses"]
    slices = dict(report.slices.rows) if report.slices else {}
    assert slices["warm"][:2] == (360, pytest.approx(results["slices"]["warm"]["ndcg@10"]))
    assert "cold" not in slices  # nobody is, under last-out
    assert report.transfer is not None and report.transfer.against_alone[0].p_holm == 0.005
    assert report.held_back == json.loads((measured.path / "gate.json").read_text())["held_back"]
    assert report.health is not None and [name for name, _ in report.health.rows] == ["1", "2", "3"]
    assert report.health.columns[0] == "separation"
    separations = [values[0] for _, values in report.health.rows]
    assert separations == [line["separation"] for line in measured.health()]
    assert report.alarms == () and report.missing == ()


def test_names_are_text_and_nothing_comes_from_elsewhere(measured: Run) -> None:
    page = render(make_report(measured, examples=2))
    seen = Seen(page)
    assert not {"script", "iframe", "object", "base", "form"} & {tag for tag, _ in seen.tags}
    for tag, attributes in seen.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href"}:
                assert str(value).startswith(("#", "data:")), f"<{tag} {name}={value}>"
    assert any('<script>alert("x")</script>&$_^' in word for word in seen.words)
    assert "url(" not in page.replace("url(#", "")
    assert len([tag for tag, _ in seen.tags if tag == "svg"]) == 5


def test_what_was_not_measured_is_named_with_its_command(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "bare")
    bare = Run.open(tmp_path / "bare")
    for name in ("results.json", "outcomes.parquet", "transfer.json", "gate.json"):
        (bare.path / name).unlink(missing_ok=True)
    report = make_report(bare, examples=1)
    assert report.quality is None and report.transfer is None and report.held_back is None
    assert [one.command for one in report.missing] == [
        f"crossfeed evaluate {bare.path}",
        f"crossfeed evaluate {bare.path} --transfer",
    ]
    words = Seen(render(report)).words
    assert f"crossfeed evaluate {bare.path} --transfer" in words
    assert not any(word.startswith("How good") and word.endswith("?") for word in words)


def test_alarms_are_shown_with_their_epoch(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    alarmed = Run.open(tmp_path / "run")
    lines = alarmed.health()
    lines[1]["alarms"] = [{"name": "entropy", "cause": "few items <b>"}]
    alarmed.write_health(lines)
    page = render(make_report(alarmed, examples=0))
    assert "epoch 2, entropy: few items &lt;b&gt;" in page and "No alarm." not in page
    (alarmed.path / "health.jsonl").unlink()  # a run that kept none
    assert "Was the training healthy?" not in render(make_report(alarmed, examples=0))


def test_a_report_is_the_same_at_every_call(measured: Run) -> None:
    assert render(make_report(measured, examples=2)) == render(make_report(measured, examples=2))


def test_the_commands_lead_to_the_same_settings(run: Run) -> None:
    prepared, trained, evaluated, reported = make_report(run, examples=0).commands
    dataset = run.dataset()
    log = str(dataset.path.parent / "my log.parquet")
    words = shlex.split(prepared)
    assert words[:5] == ["crossfeed", "prepare", log, "--out", str(dataset.path)]
    assert overrides(words) == dataset.config
    words = shlex.split(trained)
    assert words[:5] == ["crossfeed", "train", str(dataset.path), "--out", str(run.path)]
    again = load_config(overrides=[word for word in words if "=" in word])
    assert (again.model, again.train) == (run.config.model, run.config.train)
    assert shlex.split(evaluated)[2:] == [str(run.path), "--baselines", "popularity,item-knn"] or (
        "--transfer" in evaluated
    )
    assert reported == shlex.join(["crossfeed", "report", str(run.path)])


def overrides(words: list[str]) -> DataConfig:
    return load_config(overrides=[word for word in words if "=" in word]).data


def test_every_kind_of_setting_comes_back(run: Run) -> None:
    config = parse_config(
        {
            "data": {"columns": {"user_id": "who it is"}, "positive": "rating >= 4 AND x = 'a b'"},
            "model": {"dropout": 0.25, "fuse": "none"},
            "train": {"expand_domains": ["a", 'b "c"'], "epochs": 7, "learning_rate": 1e-4},
        }
    )
    other = replace(run, config=config)
    lines = commands(other, manifest=run.dataset().manifest, results=None, transfer=False)
    words = [word for line in lines[:2] for word in shlex.split(line)]
    assert load_config(overrides=[word for word in words if "=" in word]) == config
    changed = {one.name: (one.value, one.default) for one in changed_settings(config)}
    assert changed["model.dropout"] == ("0.25", "0.5")
    assert changed["data.positive"][1] == "none"
    assert changed_settings(Config()) == ()


def test_the_commands_name_the_files_that_were_read_and_no_others(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    logs = [tmp_path / "logs" / name for name in ("a.parquet", "b.parquet", "c.parquet")]
    logs[0].parent.mkdir()
    for log in logs:
        log.touch()

    def prepared(*names: Path) -> list[str]:
        manifest = {"inputs": [{"name": str(name)} for name in names], "source": None}
        lines = commands(run, manifest=manifest, results=None, transfer=False)
        words = shlex.split(lines[0])
        return words[2 : words.index("--out")]

    assert prepared(*logs) == [str(logs[0].parent)]
    for some in (logs[:2], logs[::-1], [logs[0], Path("logs/b.parquet")], [Path("x"), Path("y")]):
        assert prepared(*some) == [str(name) for name in some]


def test_the_commands_refit_what_was_refitted(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    refitted = Run.open(tmp_path / "run")
    refitted.write_checkpoint("refit", {"players": {}})
    manifest = run.dataset().manifest
    for one in (run, refitted):
        trained = commands(one, manifest=manifest, results=None, transfer=False)[1]
        assert ("--refit" in shlex.split(trained)) == one.refitted


def test_examples_are_what_the_scorer_recommends(last_out: Dataset) -> None:
    scorer = ItemKNN(last_out)
    examples = draw_examples(scorer, last_out, part=Part.TEST, count=6)
    assert len(examples) == 6 and len({one.user for one in examples}) == 6
    assert {one.domain for one in examples} == set(last_out.catalogue.domains)
    users = last_out.user_ids.to_pylist()
    for one in examples:
        taste = users.index(one.user) % 2
        assert not one.is_new and len(one.items) == 10
        # Five clicks of the domain are seen; the half of the user's taste comes first.
        assert [int(click.item[1:]) // 10 for click in one.items[:5]] == [taste] * 5
        assert one.next_item is not None and int(one.next_item[1:]) // 10 == taste
        shown = [click.item for click in one.items]
        if one.next_rank is not None and one.next_rank <= 10:
            assert shown[one.next_rank - 1] == one.next_item
            assert [click.was_next for click in one.items].index(True) == one.next_rank - 1
        assert sum(part.clicks for part in one.history) >= 2


class Turning:
    """Ranks a pool forwards for who knows the first domain, and backwards for who does not."""

    name = "turning"

    def __init__(self, dataset: Dataset) -> None:
        self._catalogue = dataset.catalogue

    def score(self, histories: Histories, domain: int, moment: Moment) -> Floats:
        pool = self._catalogue.pool(domain)
        first = self._catalogue.domain_of(histories.items) == 0
        knows = np.bincount(histories.rows()[first], minlength=len(histories)) > 0
        ramp = np.arange(pool.start, pool.stop, dtype=np.float32)
        return np.where(knows[:, None], -ramp, ramp)


def test_influence_counts_what_the_list_would_lose(last_out: Dataset) -> None:
    for one in draw_examples(Popularity(last_out), last_out, part=Part.TEST, count=3):
        assert [part.changed for part in one.history] == [0] * len(one.history)
        assert all(click.popular for click in one.items)
    for one in draw_examples(Turning(last_out), last_out, part=Part.TEST, count=3):
        unseen = 20 - sum(part.clicks for part in one.history if part.domain == one.domain)
        by_domain = {part.domain: part.changed for part in one.history}
        assert by_domain == {
            **dict.fromkeys(by_domain, 0),
            last_out.catalogue.domains[0]: unseen - 10,  # the two ends of the pool overlap
        }
        assert one.history[0].domain == last_out.catalogue.domains[0]
        assert sum(part.clicks for part in one.history) >= 2


def test_a_run_without_an_epoch_is_refused(last_out: Dataset, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", dataset=last_out, config=tiny_config(), overwrite=False)
    with pytest.raises(RunError, match="no finished epoch to report\nhint: crossfeed train"):
        make_report(run, examples=0)


def test_results_that_cannot_be_read_are_named(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    (tmp_path / "run" / "results.json").write_text("{")
    with pytest.raises(RunError, match=r"results.json' cannot be read\nhint: crossfeed evaluate"):
        make_report(Run.open(tmp_path / "run"), examples=0)


def test_without_its_extra_the_package_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "crossfeed.evaluation.report.page", raising=False)
    with pytest.raises(MissingExtraError, match=r"jinja2.*\n.*install.*\[report\]"):
        write_report(run, out=tmp_path / "report.html", examples=0)
    assert not (tmp_path / "report.html").exists()


def test_the_command_writes_beside_the_run_or_where_it_is_told(run: Run, tmp_path: Path) -> None:
    told = CliRunner().invoke(
        app, ["report", str(run.path), "--out", str(tmp_path / "r.html"), "--examples", "0"]
    )
    assert told.exit_code == 0, told.output
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "What does it recommend?" not in page
    assert CliRunner().invoke(app, ["report", str(run.path)]).exit_code == 0
    assert "What does it recommend?" in (run.path / "report.html").read_text("utf-8")


MEASURE = """<script>
const charts = [...document.querySelectorAll("figure svg")].map(svg => {
  const box = svg.getBoundingClientRect();
  const marks = [...svg.querySelectorAll("path, text")].filter(mark => mark.getBBox().width > 0);
  const ink = getComputedStyle(svg.querySelector("text")).fill;
  return {name: svg.getAttribute("aria-label"), width: box.width, marks: marks.length, ink};
});
const page = document.scrollingElement;
document.body.dataset.measured = JSON.stringify(
  {charts, overflow: page.scrollWidth - page.clientWidth, width: page.clientWidth});
</script>"""


@pytest.mark.skipif(
    BROWSER is None and not os.environ.get("CI"), reason="needs Chromium, which is not installed"
)
@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_draws_it(measured: Run, tmp_path: Path, width: int) -> None:
    """Without a complaint on the console, every chart with marks, and no page wider than it is."""
    assert BROWSER is not None, "CI needs Chromium: apt-get install chromium"
    page = render(make_report(measured, examples=2))
    (tmp_path / "report.html").write_text(page, "utf-8")
    plain = _browse(tmp_path / "report.html", width, tmp_path / "profile")
    assert "CONSOLE" not in plain.stderr
    # The page allows no script, so a copy that does is measured.
    measured_page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    (tmp_path / "copy.html").write_text(measured_page.replace("</body>", MEASURE + "</body>"))
    browsed = _browse(tmp_path / "copy.html", width, tmp_path / "profile")
    body = next(attributes for tag, attributes in Seen(browsed.stdout).tags if tag == "body")
    measures = json.loads(str(body["data-measured"]))
    assert len(measures["charts"]) == 5
    for chart in measures["charts"]:
        assert chart["width"] > 250 and chart["marks"] > 10, chart
    assert measures["overflow"] <= 0 and np.isclose(measures["width"], width, atol=20)


def _browse(page: Path, width: int, profile: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            str(BROWSER),
            *("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *("--hide-scrollbars", f"--window-size={width},900", f"--user-data-dir={profile}"),
            *("--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
