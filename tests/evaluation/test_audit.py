"""A sound dataset passes, and each planted leak makes its own check fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from planted import planted_log, tiny_config
from typer.testing import CliRunner

from crossfeed.cli import app
from crossfeed.config import DataConfig
from crossfeed.data.dataset import Dataset, Part
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.evaluation.audit import AuditReport, audit, audit_scorer
from crossfeed.evaluation.baselines import BASELINES
from crossfeed.scorer import Floats, Histories, Ints
from crossfeed.studies.auditing import audit_run, proposals_finding
from crossfeed.training.loop.trainer import train
from crossfeed.training.step.batches import batches
from crossfeed.training.step.proposals import propose, static_proposals


@pytest.fixture(scope="module")
def temporal(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return the planted log, its rows shuffled, under the temporal split."""
    log = planted_log().sample(frac=1.0, random_state=1)
    config = DataConfig(split="temporal", min_domain_events=10)
    return prepare(log, out=tmp_path_factory.mktemp("temporal") / "dataset", config=config)


@pytest.fixture(params=["temporal", "last_out", "new_in_domain"])
def sound(request: pytest.FixtureRequest) -> Dataset:
    found: Dataset = request.getfixturevalue(request.param)
    return found


def failed(report: AuditReport) -> list[str]:
    return [finding.artefact for finding in report.findings if not finding.passed]


def test_a_sound_dataset_passes(sound: Dataset) -> None:
    report = audit(sound, baselines=list(BASELINES))
    assert report.passed and failed(report) == []
    assert all(finding.checked > 0 and not finding.detail for finding in report.findings)
    assert {"split", "filters", "index tables", "popularity", "known clicks"} <= {
        finding.artefact for finding in report.findings
    }


def test_shuffled_rows_leave_no_test_click_before_the_cut(temporal: Dataset) -> None:
    """A mask made on sorted rows and applied to unsorted ones, and a cut per user, would."""
    times, parts = temporal.event_time, temporal.event_part
    assert times[parts == Part.TRAIN].max() < times[parts == Part.VALIDATION].min()
    assert times[parts == Part.VALIDATION].max() < times[parts == Part.TEST].min()


def with_part(dataset: Dataset, event: int, part: Part) -> Dataset:
    parts = np.array(dataset.event_part)
    parts[event] = part
    return replace(dataset, event_part=parts)


def test_a_later_click_in_training_is_found(temporal: Dataset) -> None:
    events = temporal.events(Part.TEST)
    latest = int(events[temporal.event_time[events].argmax()])
    report = audit(with_part(temporal, latest, Part.TRAIN))
    split = next(finding for finding in report.findings if finding.artefact == "split")
    assert not split.passed and "violations, the first is event" in split.detail


def test_a_training_click_after_the_test_click_is_found(last_out: Dataset) -> None:
    first = int(last_out.events(Part.TRAIN)[0])
    assert "split" in failed(audit(with_part(last_out, first, Part.TEST)))


def test_a_held_out_pair_in_training_is_found(new_in_domain: Dataset) -> None:
    rest = int(np.flatnonzero(new_in_domain.event_part == Part.TEST_REST)[0])
    assert "split" in failed(audit(with_part(new_in_domain, rest, Part.TRAIN)))


def test_filters_fitted_on_later_clicks_are_found(temporal: Dataset) -> None:
    """Clicks of an item lie in training and after; together they are enough, alone not."""
    item = int(np.bincount(temporal.event_item[temporal.events(Part.TRAIN)]).argmin())
    manifest = {**temporal.manifest, "config": {**temporal.manifest["config"]}}
    count = int((temporal.event_item[temporal.events(Part.TRAIN)] == item).sum())
    manifest["config"]["min_item_events"] = count + 1
    report = audit(replace(temporal, manifest=manifest))
    assert failed(report) == ["filters"]
    (finding,) = [one for one in report.findings if not one.passed]
    assert finding.detail == f"item {item} has {count} of {count + 1} events"


def test_a_pool_with_an_item_of_the_test_part_is_found(temporal: Dataset) -> None:
    """The last known item of a domain loses its training clicks to the test part."""
    item = temporal.catalogue.pool(0).stop - 1
    parts = np.array(temporal.event_part)
    parts[temporal.event_item == item] = Part.TEST
    leaked = replace(temporal, event_part=parts)
    assert "index tables" in failed(audit(leaked))


def test_popularity_that_counts_later_clicks_is_found(sound: Dataset) -> None:
    everything = sound.event_item[sound.event_item >= 0]
    counts = np.bincount(everything, minlength=sound.catalogue.items)
    assert failed(audit(replace(sound, item_clicks=counts))) == ["popularity"]


@dataclass(frozen=True)
class _Leaky(Dataset):
    """A dataset whose histories or targets are wrong in one way."""

    leak: str = ""

    def histories(self, events: Ints, part: Part, *, limit: int | None = None) -> Histories:
        if self.leak == "the click itself":
            items = [
                [
                    *super(_Leaky, self).histories(events[row : row + 1], part).items,
                    self.event_item[events[row]],
                ]
                for row in range(len(events))
            ]
            return Histories.of(items)
        if self.leak == "held-out clicks":
            return super().histories(events, Part.TEST)
        return super().histories(events, part)

    def events(self, part: Part) -> Ints:
        if self.leak == "held-out targets" and part is Part.TRAIN:
            return np.flatnonzero(self.event_part != Part.TEST)
        return super().events(part)


def leaky(dataset: Dataset, leak: str) -> Dataset:
    values = {name: getattr(dataset, name) for name in Dataset.__dataclass_fields__}
    return _Leaky(**values, leak=leak)


def test_a_history_that_holds_the_click_itself_is_found(last_out: Dataset) -> None:
    found = failed(audit(leaky(last_out, "the click itself")))
    assert found == ["histories of train", "histories of validation", "histories of test"]


def test_a_training_history_with_held_out_clicks_is_found(new_in_domain: Dataset) -> None:
    assert "histories of train" in failed(audit(leaky(new_in_domain, "held-out clicks")))


def test_a_held_out_target_of_training_is_found(last_out: Dataset) -> None:
    assert "known clicks" in failed(audit(leaky(last_out, "held-out targets")))


class _Peeking:
    """Popularity over all parts."""

    name = "peeking"

    def __init__(self, dataset: Dataset) -> None:
        self._catalogue = dataset.catalogue
        items = dataset.event_item[dataset.event_item >= 0]
        self._clicks = np.bincount(items, minlength=dataset.catalogue.items)

    def score(self, histories: Histories, domain: int) -> Floats:
        clicks = self._clicks[self._catalogue.pool(domain)].astype(np.float32)
        return np.tile(clicks, (len(histories), 1))


def test_a_scorer_that_peeks_is_found(sound: Dataset) -> None:
    finding = audit_scorer(_Peeking, sound)
    assert not finding.passed and finding.artefact == "scorer peeking"
    assert "the scores of domain 'articles' changed" in finding.detail


def test_a_candidate_outside_training_is_found(last_out: Dataset) -> None:
    config = tiny_config()
    batch = next(batches(last_out, config, clicks=last_out.events(Part.TRAIN), epoch=0))
    static = static_proposals(last_out, config.train)
    proposals = propose(None, batch, static=static, config=config.train, expanded=[True] * 3)
    assert proposals_finding(last_out, [(batch, proposals)]).passed
    unclicked = int(proposals.candidates[0, 0]) + batch.groups[0].pool.start
    parts = np.array(last_out.event_part)
    parts[last_out.event_item == unclicked] = Part.TEST
    finding = proposals_finding(replace(last_out, event_part=parts), [(batch, proposals)])
    assert not finding.passed and f"the first is item {unclicked}" in finding.detail


def test_a_run_is_audited(last_out: Dataset, tmp_path: Path) -> None:
    run = train(last_out, out=tmp_path / "run", config=tiny_config(epochs=1))
    report = audit_run(run)
    assert report.passed and report.findings[-1].artefact == "candidates"
    shown = CliRunner().invoke(app, ["validate", str(run.path)])
    assert shown.exit_code == 0 and "candidates" in shown.stdout


def _unsort(dataset: Path) -> None:
    times = np.load(dataset / "events" / "time.npy")
    np.save(dataset / "events" / "time.npy", times[::-1])


@pytest.mark.parametrize("damage", [None, _unsort])
def test_the_command_tells_and_exits(
    damage: Callable[[Path], None] | None,
    temporal: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(temporal.path, tmp_path / "dataset")
    monkeypatch.setattr(Dataset, "verify", lambda self: None)  # the hashes would tell first
    if damage:
        damage(tmp_path / "dataset")
    shown = CliRunner().invoke(app, ["validate", str(tmp_path / "dataset")])
    answer = CliRunner().invoke(app, ["validate", str(tmp_path / "dataset"), "--json"])
    assert shown.exit_code == answer.exit_code == (1 if damage else 0)
    assert json.loads(answer.stdout)["valid"] is (damage is None)
    assert ("NO: " in shown.stdout) is (damage is not None)
