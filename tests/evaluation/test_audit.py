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
from crossfeed.data.dataset.moments import LogMoment
from crossfeed.data.prepare.pipeline import prepare
from crossfeed.evaluation.audit import AuditReport, audit, audit_scorer
from crossfeed.evaluation.baselines import BASELINES
from crossfeed.scorer import Bools, Floats, Histories, Ints, Moment
from crossfeed.studies.auditing import audit_run, proposals_finding
from crossfeed.training.loop.trainer import train
from crossfeed.training.step.batches import batches
from crossfeed.training.step.proposals import propose


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
    assert {"split", "filters", "index tables", "popularity", "targets"} <= {
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
    counts = np.bincount(temporal.event_item[temporal.events(Part.TRAIN)])
    item, manifest = int(counts.argmin()), {**temporal.manifest}
    manifest["config"] = {**manifest["config"], "min_item_events": int(counts[item]) + 1}
    report = audit(replace(temporal, manifest=manifest))
    assert failed(report) == ["filters"]
    (finding,) = [one for one in report.findings if not one.passed]
    assert f"the first is item {np.flatnonzero(counts == counts[item])[0]}" in finding.detail


def test_an_item_that_nobody_clicked_is_found(temporal: Dataset) -> None:
    items = np.array(temporal.event_item)
    items[items == 3] = 4
    assert "index tables" in failed(audit(replace(temporal, event_item=items)))


def test_popularity_that_counts_later_clicks_is_found(sound: Dataset) -> None:
    counts = np.bincount(sound.event_item, minlength=sound.catalogue.items)
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
        if self.leak == "ties in histories":
            return super()._visible(self.user_offsets[self.users_of(events)], events, part)
        return super().histories(events, part)

    @property
    def learned_events(self) -> Ints:  # type: ignore[override]
        if self.leak == "held-out targets":
            return np.flatnonzero(self.event_part != Part.TEST)
        return super().learned_events

    def moment(self, time: int, part: Part) -> LogMoment:
        if self.leak == "ties in demand":
            return super().moment(time + 1, part)
        if self.leak == "held-out demand":
            return super().moment(time, Part.TEST)
        if self.leak == "items of the future":
            return _Everything(**vars(super().moment(time, part)))
        return super().moment(time, part)


class _Everything(LogMoment):
    """A moment at which all items exist."""

    def exists(self, domain: int) -> Bools:
        return np.ones_like(super().exists(domain))


def leaky(dataset: Dataset, leak: str) -> Dataset:
    values = {name: getattr(dataset, name) for name in Dataset.__dataclass_fields__}
    return _Leaky(**values, leak=leak)


def test_a_history_that_holds_the_click_itself_is_found(last_out: Dataset) -> None:
    found = failed(audit(leaky(last_out, "the click itself")))
    assert found == ["histories of train", "histories of validation", "histories of test"]


def test_a_training_history_with_held_out_clicks_is_found(new_in_domain: Dataset) -> None:
    assert "histories of train" in failed(audit(leaky(new_in_domain, "held-out clicks")))


def test_a_held_out_target_of_training_is_found(last_out: Dataset) -> None:
    assert "targets" in failed(audit(leaky(last_out, "held-out targets")))


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return the planted log with a day for a time, so that many clicks are at one time."""
    log = planted_log()
    log["timestamp"] = 1_600_000_000 + (log["timestamp"] - 1_600_000_000) // 3600 * 3600
    config = DataConfig(split="temporal", min_domain_events=10)
    return prepare(log, out=tmp_path_factory.mktemp("tied") / "dataset", config=config)


@pytest.mark.parametrize(
    ("leak", "artefact"),
    [("ties in histories", "histories"), ("ties in demand", "demand")],
)
def test_a_click_at_the_same_time_is_found(leak: str, artefact: str, tied: Dataset) -> None:
    assert audit(tied).passed
    found = failed(audit(leaky(tied, leak)))
    assert set(found) == {f"{artefact} of {part}" for part in ("train", "validation", "test")}


def test_demand_that_holds_the_click_itself_is_found(temporal: Dataset) -> None:
    """In this log every click has a time of its own."""
    assert "demand of test" in failed(audit(leaky(temporal, "ties in demand")))


def test_demand_from_held_out_clicks_is_found(last_out: Dataset) -> None:
    found = failed(audit(leaky(last_out, "held-out demand")))
    assert found == ["demand of train", "demand of validation"]


def test_an_item_of_the_future_in_a_pool_is_found(tmp_path: Path) -> None:
    log = planted_log()
    fresh = log["item_id"].eq("a03")
    log = log[~fresh | (log["timestamp"] > log["timestamp"].quantile(0.5))]
    config = DataConfig(split="temporal", min_domain_events=10)
    dataset = prepare(log, out=tmp_path / "dataset", config=config)
    assert audit(dataset).passed
    assert "demand of train" in failed(audit(leaky(dataset, "items of the future")))


class _Peeking:
    """Popularity over all parts."""

    name = "peeking"

    def __init__(self, dataset: Dataset) -> None:
        self._catalogue = dataset.catalogue
        self._clicks = np.bincount(dataset.event_item, minlength=dataset.catalogue.items)

    def score(self, histories: Histories, domain: int, moment: Moment) -> Floats:
        clicks = self._clicks[self._catalogue.pool(domain)].astype(np.float32)
        return np.tile(clicks, (len(histories), 1))


def test_a_scorer_that_peeks_is_found(sound: Dataset) -> None:
    finding = audit_scorer(_Peeking, sound)
    assert not finding.passed and finding.artefact == "scorer peeking"
    assert "violations, the first is event" in finding.detail


class _Later:
    """Popularity a day later than it may know."""

    name = "later"

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def score(self, histories: Histories, domain: int, moment: Moment) -> Floats:
        assert isinstance(moment, LogMoment)
        demand = LogMoment(moment.time + 86_400_000, moment.history).demand(domain)
        return np.tile(demand[:, 0].astype(np.float32), (len(histories), 1))


def test_a_scorer_that_looks_ahead_is_found(temporal: Dataset) -> None:
    assert not audit_scorer(_Later, temporal).passed


def test_a_candidate_outside_training_is_found(last_out: Dataset) -> None:
    config = tiny_config()
    batch = next(batches(last_out, config, clicks=last_out.learned_events, epoch=0))
    proposals = propose(None, batch, config=config.train, expanded=[True] * 3)
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
