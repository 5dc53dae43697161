"""Networks that know some domains only see those, and learn from those."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from planted import tiny_config

from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import RunError
from crossfeed.evaluation.baselines import Popularity
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.run import Run
from crossfeed.scorer import Floats, Histories, Moment
from crossfeed.studies.narrow import Alone, Narrowed, train_alone, train_narrowed
from crossfeed.training.loop.trainer import Fit, train
from crossfeed.training.step.batches import Batch


class Spy:
    """A scorer that keeps the histories it is shown."""

    name = "spy"

    def __init__(self) -> None:
        self.shown: list[Histories] = []

    def score(self, histories: Histories, domain: int, moment: Moment) -> Floats:
        self.shown.append(histories)
        return np.zeros((len(histories), 20), np.float32)


def test_a_view_has_the_targets_and_the_history_of_its_domains(last_out: Dataset) -> None:
    view = last_out.narrowed(targets=[0], history=[1, 2])
    for part in (Part.TRAIN, Part.VALIDATION, Part.TEST):
        events = view.events(part)
        own = last_out.events(part)
        assert events.tolist() == own[last_out.event_domain[own] == 0].tolist()
        histories = view.histories(events, part)
        expected = last_out.histories(events, part)
        domains = last_out.catalogue.domain_of(expected.items)
        assert histories.items.tolist() == expected.items[domains != 0].tolist()


def test_a_narrowed_scorer_is_shown_its_domains_alone(last_out: Dataset) -> None:
    spy = Spy()
    narrowed = Narrowed(spy, last_out.catalogue, [0, 2])
    narrowed.score(Histories.of([[1, 25, 41, 3], [30], []]), 1, last_out.end(Part.TRAIN))
    (shown,) = spy.shown
    assert [shown.row(row).tolist() for row in range(3)] == [[1, 41, 3], [], []]


def test_each_domain_alone_has_its_own_network(
    last_out: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(epochs=1)
    alone = train_alone(last_out, out=tmp_path, config=config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0000", "0001", "0002"]
    domains = last_out.catalogue.domains
    told = [line for line in capsys.readouterr().err.splitlines() if "targets" in line]
    assert told == [f"train: targets in {name} and history in {name}" for name in domains]
    events = last_out.events(Part.TEST)[:10]
    histories = last_out.histories(events, Part.TEST)
    elsewhere = last_out.catalogue.domain_of(histories.items) != 1
    # Neither what the user did elsewhere nor the order of training changes a domain's scores.
    moment = last_out.end(Part.TRAIN)
    np.testing.assert_array_equal(
        alone.score(histories, 1, moment), alone.score(histories.where(~elsewhere), 1, moment)
    )
    again = train_narrowed(
        last_out, out=tmp_path / "again", config=config, targets=[1], history=[1]
    )
    np.testing.assert_array_equal(
        again.score(histories, 1, moment), alone.score(histories, 1, moment)
    )
    assert evaluate(alone, last_out).scorer == "alone"


def test_a_narrowed_run_goes_on_with_the_same_domains_alone(
    last_out: Dataset, tmp_path: Path
) -> None:
    view, config = last_out.narrowed(targets=[0], history=[0, 2]), tiny_config()
    Run.create(tmp_path / "narrowed", dataset=view, config=config, overwrite=False)
    Run.create(tmp_path / "whole", dataset=last_out, config=config, overwrite=False)
    narrowed, whole = Run.open(tmp_path / "narrowed"), Run.open(tmp_path / "whole")
    narrowed.require_dataset(view)
    assert narrowed.dataset().narrowing == {}
    told = r"trained on targets in articles and history in articles, videos; asked for is {}\nhint"
    with pytest.raises(RunError, match=told.format("all domains")):
        train(last_out, out=narrowed.path, config=config, resume=True)
    with pytest.raises(RunError, match=told.format("targets in articles")):
        narrowed.require_dataset(last_out.narrowed(targets=[0]))
    with pytest.raises(RunError, match="trained on all domains; asked for is targets in articles"):
        whole.require_dataset(view)


def test_a_domain_without_validation_is_scored_by_popularity(last_out: Dataset) -> None:
    popularity = Popularity(last_out)
    alone = Alone({}, otherwise=popularity)
    histories, moment = Histories.of([[1], []]), last_out.end(Part.TRAIN)
    np.testing.assert_array_equal(
        alone.score(histories, 2, moment), popularity.score(histories, 2, moment)
    )


def test_an_interrupted_narrowed_training_is_gone_on_with_by_the_same_command(
    last_out: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step = Fit._step

    def asked(fit: Fit, batch: Batch) -> None:
        signal.raise_signal(signal.SIGINT)
        step(fit, batch)

    monkeypatch.setattr(Fit, "_step", asked)
    with pytest.raises(KeyboardInterrupt):
        train_narrowed(last_out, out=tmp_path, config=tiny_config(), targets=[0], history=[0])
    assert "continue with: the same command\n" in capsys.readouterr().err
