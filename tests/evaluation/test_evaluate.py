"""What evaluation shows a scorer, and how it averages."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import ConfigError, DatasetError
from crossfeed.evaluation.baselines import BASELINES
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.evaluation.metrics import metrics_at
from crossfeed.scorer import Floats, Histories, Moment, Scorer


class Oracle:
    """Knows each held-out click, by the length of the history before it and the user's items."""

    name = "oracle"

    def __init__(self, dataset: Dataset, part: Part) -> None:
        self.catalogue = dataset.catalogue
        self.answers: dict[tuple[int, bytes], int] = {}
        for event in dataset.events(part):
            history = dataset.histories(np.array([event]), part).items
            key = int(dataset.event_domain[event]), history.tobytes()
            self.answers[key] = int(dataset.event_item[event])

    def score(self, histories: Histories, domain: int, moment: Moment) -> Floats:
        pool = self.catalogue.pool(domain)
        scores = np.zeros((len(histories), pool.stop - pool.start), np.float32)
        for row in range(len(histories)):
            scores[row, self.answers[domain, histories.row(row).tobytes()] - pool.start] = 1
        return scores


def test_an_oracle_is_perfect(last_out: Dataset) -> None:
    results = evaluate(Oracle(last_out, Part.TEST), last_out)
    ranking = {name: value for name, value in results.micro.items() if name != "nll"}
    assert set(ranking) == {*metrics_at(10), "gauc"}
    assert results.unknown_share == 0
    assert all(value == pytest.approx(1) for value in ranking.values())
    assert {name: results.macro[name] for name in ranking} == pytest.approx(ranking)


def test_micro_is_over_events_and_macro_over_domains(last_out: Dataset) -> None:
    results = evaluate(BASELINES["popularity"](last_out), last_out)
    counts = [figures["events"] for figures in results.domains.values()]
    values = [figures["ndcg@10"] for figures in results.domains.values()]
    assert results.micro["ndcg@10"] == pytest.approx(np.average(values, weights=counts))
    assert results.macro["ndcg@10"] == pytest.approx(np.mean(values))


def test_a_history_ends_before_its_event_and_never_holds_the_answer(last_out: Dataset) -> None:
    events = last_out.events(Part.TEST)
    histories = last_out.histories(events, Part.TEST)
    for row, event in enumerate(events):
        assert int(last_out.event_item[event]) not in histories.row(row)


def test_validation_never_sees_the_test_part(last_out: Dataset) -> None:
    events = last_out.events(Part.VALIDATION)
    histories = last_out.histories(events, Part.VALIDATION)
    users = last_out.users_of(events)
    test_events = last_out.events(Part.TEST)
    test_items = {
        (user, item)
        for user, item in zip(
            last_out.users_of(test_events), last_out.event_item[test_events], strict=True
        )
    }
    for row, user in enumerate(users):
        assert not {(user, item) for item in histories.row(row)} & test_items


def test_training_histories_hold_training_clicks_alone(new_in_domain: Dataset) -> None:
    events = new_in_domain.events(Part.TRAIN)
    histories = new_in_domain.histories(events, Part.TRAIN)
    held_out = np.flatnonzero(new_in_domain.event_part != Part.TRAIN)
    held_out_items = {
        (user, item)
        for user, item in zip(
            new_in_domain.users_of(held_out), new_in_domain.event_item[held_out], strict=True
        )
    }
    users = new_in_domain.users_of(events)[histories.rows()]
    assert not set(zip(users, histories.items, strict=True)) & held_out_items


def test_new_in_domain_events_have_no_history_in_their_domain(new_in_domain: Dataset) -> None:
    events = new_in_domain.events(Part.TEST)
    histories = new_in_domain.histories(events, Part.TEST)
    domains = new_in_domain.catalogue.domain_of(histories.items)
    assert not (domains == new_in_domain.event_domain[events][histories.rows()]).any()


def test_item_knn_finds_the_planted_taste(last_out: Dataset) -> None:
    results = evaluate(BASELINES["item-knn"](last_out), last_out, baselines=("popularity",))
    assert results.micro["ndcg@10"] > 1.3 * results.baselines["popularity"].micro["ndcg@10"]


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_baselines_keep_the_scorers_contract(name: str, last_out: Dataset) -> None:
    scorer = BASELINES[name](last_out)
    assert isinstance(scorer, Scorer)
    events = last_out.events(Part.TEST)[:5]
    histories = last_out.histories(events, Part.TEST)
    moment = last_out.end(Part.TRAIN)
    together = scorer.score(histories, 1, moment)
    pool = last_out.catalogue.pool(1)
    assert together.shape == (5, pool.stop - pool.start)
    for row in range(5):
        alone = scorer.score(histories.rows_between(row, row + 1), 1, moment)
        np.testing.assert_allclose(alone[0], together[row], atol=1e-6)
    assert np.isfinite(scorer.score(Histories.of([[]]), 0, moment)).all()


def test_baselines_are_fitted_on_training_clicks_alone(last_out: Dataset) -> None:
    """Whatever is written into the held-out events, the baselines stay the same."""
    items = last_out.event_item.copy()
    held_out = last_out.event_part != Part.TRAIN
    items[held_out] = last_out.catalogue.offsets[last_out.event_domain[held_out]]
    changed = dataclasses.replace(last_out, event_item=items)
    histories, moment = Histories.of([[0, 25], [45]]), last_out.end(Part.TRAIN)
    for build in BASELINES.values():
        np.testing.assert_array_equal(
            build(last_out).score(histories, 1, moment), build(changed).score(histories, 1, moment)
        )


def test_an_unknown_baseline_names_those_that_there_are(last_out: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"'popularty' is unknown; .*: popularity, .*item-knn"):
        evaluate(BASELINES["popularity"](last_out), last_out, baselines=("popularty",))


def test_an_empty_part_is_an_error(last_out: Dataset) -> None:
    empty = dataclasses.replace(last_out, event_part=np.zeros_like(last_out.event_part))
    with pytest.raises(DatasetError, match=r"the test part of .* has no event"):
        evaluate(BASELINES["popularity"](last_out), empty)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"part": "test"}, r"part must be of type Part; it is 'test'\nhint: Part.TEST"),
        ({"dataset": "data"}, r"dataset must be of type Dataset; it is 'data'\nhint: Dataset.load"),
        ({"scorer": "run"}, r"scorer must be of type Scorer; it is 'run'\nhint: Run.open"),
    ],
)
def test_arguments_of_another_type_are_told(
    given: dict[str, Any],  # Any: what a type checker would refuse
    told: str,
    last_out: Dataset,
) -> None:
    right: dict[str, Any] = {"scorer": BASELINES["popularity"](last_out), "dataset": last_out}
    with pytest.raises(ConfigError, match=told):
        evaluate(**{**right, **given})
