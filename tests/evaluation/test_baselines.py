"""What every baseline promises, and what each one computes."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from implicit.cpu import bpr as implicit_bpr

from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import ConfigError, MissingExtraError
from crossfeed.evaluation.baselines import (
    ALS,
    BASELINES,
    BPR,
    EASE,
    ItemKNN,
    LivePopularity,
    require_baselines,
)
from crossfeed.evaluation.baselines.baseline import click_matrix, known_clicks
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.installing import install_hint
from crossfeed.scorer import Histories, Moment, Scorer
from crossfeed.studies.baseline_tuning import tune_baseline

HISTORIES = Histories.of([[1, 25, 41, 3], [], [30], [59, 58, 2, 7, 22]])
PERSONAL = ["item-knn", "ease", "als", "bpr"]
FROZEN = ["popularity", *PERSONAL]


@pytest.fixture(scope="module")
def fitted(last_out: Dataset) -> dict[str, Scorer]:
    return {name: baseline(last_out) for name, baseline in BASELINES.items()}


@pytest.fixture(scope="module")
def end(last_out: Dataset) -> Moment:
    return last_out.end(Part.TRAIN)


@pytest.mark.parametrize("name", BASELINES)
def test_the_contract_of_a_scorer(
    name: str, fitted: dict[str, Scorer], last_out: Dataset, end: Moment
) -> None:
    scorer = fitted[name]
    assert isinstance(scorer, Scorer) and scorer.name == name
    for domain in range(3):
        pool = last_out.catalogue.pool(domain)
        together = scorer.score(HISTORIES, domain, end)
        assert together.dtype == np.float32
        assert together.shape == (len(HISTORIES), pool.stop - pool.start)
        assert np.isfinite(together).all()
        for row in range(len(HISTORIES)):
            alone = scorer.score(HISTORIES.rows_between(row, row + 1), domain, end)
            np.testing.assert_allclose(alone[0], together[row], rtol=1e-4, atol=1e-6)
        backwards = Histories.of([HISTORIES.row(row)[::-1] for row in range(len(HISTORIES))])
        np.testing.assert_allclose(
            scorer.score(backwards, domain, end), together, rtol=1e-4, atol=1e-6
        )
        assert scorer.score(Histories.of([]), domain, end).shape == (0, together.shape[1])


@pytest.mark.parametrize("name", FROZEN)
def test_who_has_no_history_is_ranked_by_popularity(
    name: str, fitted: dict[str, Scorer], end: Moment
) -> None:
    nobody = Histories.of([[]])
    clicks = fitted["popularity"].score(nobody, 0, end)[0]
    scores = fitted[name].score(nobody, 0, end)[0]
    np.testing.assert_array_equal(
        np.argsort(-scores, kind="stable"), np.argsort(-clicks, kind="stable")
    )


@pytest.mark.parametrize("name", BASELINES)
def test_only_the_training_part_is_learned(
    name: str, fitted: dict[str, Scorer], last_out: Dataset, end: Moment
) -> None:
    """Other clicks in the held-out parts change nothing."""
    held_out = last_out.event_part != Part.TRAIN
    items = np.where(
        held_out, last_out.catalogue.offsets[last_out.event_domain], last_out.event_item
    )
    altered = dataclasses.replace(
        last_out, event_item=items.astype(np.int32), event_time=last_out.event_time + held_out
    )
    assert not np.array_equal(altered.event_item, last_out.event_item)
    again = BASELINES[name](altered)
    np.testing.assert_array_equal(
        again.score(HISTORIES, 1, end), fitted[name].score(HISTORIES, 1, end)
    )


@pytest.mark.parametrize("name", PERSONAL)
def test_taste_is_found(name: str, fitted: dict[str, Scorer], last_out: Dataset) -> None:
    results = evaluate(fitted[name], last_out, baselines=["popularity"])
    assert results.micro["auc"] > results.baselines["popularity"].micro["auc"] + 0.1


@pytest.mark.parametrize("name", BASELINES)
def test_the_budget_of_trials_is_small_and_each_can_be_fitted(name: str, last_out: Dataset) -> None:
    trials = BASELINES[name].trials()
    assert 1 <= len(trials) <= 10
    tuned = tune_baseline(name, last_out)
    assert [trial.settings for trial in tuned.trials] == list(trials)
    best = max(trial.value for trial in tuned.trials)
    found = evaluate(tuned.scorer, last_out, part=Part.VALIDATION).micro["ndcg@10"]
    assert found == best == {t.settings: t.value for t in tuned.trials}[tuned.settings]


def test_of_a_figure_that_is_better_when_lower_the_lowest_is_chosen(last_out: Dataset) -> None:
    tuned = tune_baseline("item-knn", last_out, metric="nll")
    values = [trial.value for trial in tuned.trials]
    found = evaluate(tuned.scorer, last_out, part=Part.VALIDATION).micro["nll"]
    assert found == min(values) < max(values)
    assert found == {trial.settings: trial.value for trial in tuned.trials}[tuned.settings]


def test_tuning_never_sees_the_test_part(last_out: Dataset) -> None:
    test = last_out.event_part == Part.TEST
    items = np.where(test, last_out.catalogue.offsets[last_out.event_domain], last_out.event_item)
    altered = dataclasses.replace(last_out, event_item=items.astype(np.int32))
    assert tune_baseline("item-knn", altered).trials == tune_baseline("item-knn", last_out).trials


def test_tuning_an_unknown_baseline_lists_the_known_ones(last_out: Dataset) -> None:
    with pytest.raises(ConfigError, match="baseline 'knn' is unknown; it is one of: popularity"):
        tune_baseline("knn", last_out)


def test_ease_is_its_closed_form(last_out: Dataset, end: Moment) -> None:
    clicks = click_matrix(last_out).toarray().astype(np.float64)
    inverse = np.linalg.inv(clicks.T @ clicks + 7.0 * np.eye(clicks.shape[1]))
    weights = np.eye(len(inverse)) - inverse / np.diag(inverse)
    taste = np.zeros((1, len(inverse)))
    taste[0, [1, 25, 41]] = 1
    scores = EASE(last_out, regularisation=7.0).score(Histories.of([[1, 25, 41]]), 2, end)
    np.testing.assert_allclose(scores, (taste @ weights)[:, last_out.catalogue.pool(2)], atol=1e-4)


def test_ease_refuses_what_does_not_fit(last_out: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"of 60 items, 0\.0 GiB; it is allowed for 59 items"):
        EASE(last_out, largest=59)


def test_als_folds_in_as_it_trains(last_out: Dataset, end: Moment) -> None:
    """The users' factors of the last sweep were made against the items before it: sweep on."""
    als = ALS(last_out, factors=8, regularisation=1.0, weight=4.0, iterations=3)
    items = als._model.item_factors.astype(np.float64)
    own = items[[1, 25]]
    system = items.T @ items + 4.0 * own.T @ own + 1.0 * np.eye(8)
    user = np.linalg.solve(system, 5.0 * own.sum(0))
    scores = als.score(Histories.of([[1, 25, 25]]), 0, end)
    np.testing.assert_allclose(scores[0], items[last_out.catalogue.pool(0)] @ user, atol=1e-3)


def test_als_gives_the_same_numbers_for_the_same_seed(last_out: Dataset, end: Moment) -> None:
    one, again, other = (ALS(last_out, iterations=3, seed=seed) for seed in (0, 0, 1))
    first, second, third = (each.score(HISTORIES, 0, end) for each in (one, again, other))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, third)


def test_bpr_puts_popularity_back(last_out: Dataset, end: Moment) -> None:
    """Between two weights of popularity, scores differ by the logarithm of the items' users."""
    without, whole = (BPR(last_out, iterations=5, popularity=weight) for weight in (0.0, 1.0))
    users = click_matrix(last_out).toarray().sum(0)
    expected = np.log(np.maximum(users, 1))[last_out.catalogue.pool(1)]
    history = Histories.of([[1, 25]])
    added = whole.score(history, 1, end) - without.score(history, 1, end)
    np.testing.assert_allclose(added[0], expected, atol=1e-4)


def test_bpr_folds_in_the_users_of_training_near_their_own_factors(last_out: Dataset) -> None:
    """The map beats the plain mean of the items' factors, which is one of the maps it may be."""
    bpr = BPR(last_out, iterations=20)
    clicks = click_matrix(last_out)
    means = clicks @ bpr._items / np.maximum(np.diff(clicks.indptr), 1)[:, None]
    model = implicit_bpr.BayesianPersonalizedRanking(
        factors=64,
        learning_rate=0.05,
        regularization=0.03,
        iterations=20,
        random_state=0,
        num_threads=1,
    )
    model.fit(clicks, show_progress=False)
    users = model.user_factors[:, :-1]
    assert np.square(means @ bpr._map - users).sum() < 0.9 * np.square(means - users).sum()


def test_bpr_gives_the_same_numbers_for_the_same_seed(last_out: Dataset, end: Moment) -> None:
    one, again, other = (BPR(last_out, iterations=5, seed=seed) for seed in (0, 0, 1))
    first, second, third = (each.score(HISTORIES, 0, end) for each in (one, again, other))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, third)


@pytest.mark.parametrize("hours", [1, 24, 168])
@pytest.mark.parametrize("when", [0.3, 0.9, 1.0])
def test_recent_clicks_weigh_more(hours: int, when: float, last_out: Dataset) -> None:
    """The clicks before the moment count, by their ages; items without one come last."""
    events = last_out.events(Part.TRAIN)
    times, items = last_out.event_time[events], last_out.event_item[events]
    time, pool = int(np.quantile(times, when)), last_out.catalogue.pool(1)
    earlier = (items >= pool.start) & (items < pool.stop) & (times < time)
    ages = (time - times[earlier]) / (hours * 3_600_000)
    counts = np.bincount(items[earlier] - pool.start, 0.5**ages, minlength=20)
    found = LivePopularity(last_out, half_life_hours=hours).score(
        Histories.of([[], [3]]), 1, last_out.moment(time, Part.TRAIN)
    )
    assert np.array_equal(found[0], found[1])
    order = np.argsort(-found[0], kind="stable")
    assert (np.diff(counts[order]) <= 1e-6).all()
    assert (found[0][counts == 0] < found[0][counts > 0].min(initial=0.0)).all()


def test_frozen_baselines_put_items_without_a_training_click_last(last_out: Dataset) -> None:
    """They also ignore such an item in a history."""
    new = 25
    kept = last_out.event_item != new
    clicks = np.where(np.arange(last_out.catalogue.items) == new, 0, last_out.item_clicks)
    parts = np.where(kept, last_out.event_part, Part.TEST_REST).astype(np.uint8)
    without = dataclasses.replace(last_out, item_clicks=clicks, event_part=parts)
    moment = without.end(Part.TRAIN)
    for name in FROZEN:
        scorer = BASELINES[name](without)
        scores = scorer.score(Histories.of([[], [new], [1], [1, new]]), 1, moment)
        assert np.isfinite(scores).all()
        place = new - without.catalogue.pool(1).start
        assert (np.delete(scores, place, axis=1) > scores[:, [place]]).all()
        np.testing.assert_array_equal(scores[[0, 2]], scores[[1, 3]])


def test_without_implicit_the_extra_is_named(
    last_out: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    monkeypatch.setitem(sys.modules, "implicit.cpu.bpr", None)
    for name in ("als", "bpr"):
        with pytest.raises(MissingExtraError, match=re.escape(install_hint("baselines"))):
            BASELINES[name](last_out)
        with pytest.raises(MissingExtraError, match="implicit"):
            require_baselines(["popularity", name], last_out)  # before anything is fitted


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        (partial(EASE, regularisation=0.0), r"regularisation is 0.0; it must be above 0"),
        (partial(LivePopularity, half_life_hours=5), r"half_life_hours = 5; it is one of \[1, 6, "),
    ],
)
def test_impossible_settings_are_refused(
    fit: Callable[[Dataset], Scorer], message: str, last_out: Dataset
) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(last_out)


@pytest.mark.parametrize("name", BASELINES)
def test_a_click_that_is_repeated_counts_once(
    name: str, fitted: dict[str, Scorer], end: Moment
) -> None:
    repeated, plain = Histories.of([[1, 25, 1]]), Histories.of([[1, 25]])
    np.testing.assert_array_equal(
        fitted[name].score(repeated, 2, end), fitted[name].score(plain, 2, end)
    )


def test_clicks_that_training_does_not_know_are_dropped() -> None:
    clicks = known_clicks(Histories.of([[2, 1, 1], []]), np.array([True, True, False]))
    assert clicks.shape == (2, 3)
    assert clicks[0].indices.tolist() == [1] and clicks.data.tolist() == [1.0]


def test_item_knn_is_the_cosine_of_the_nearest(last_out: Dataset, end: Moment) -> None:
    clicks = click_matrix(last_out).toarray().astype(np.float64)
    together, counts = clicks.T @ clicks, clicks.sum(0)
    cosine = together / (np.sqrt(np.outer(counts, counts)) + 2.0)
    np.fill_diagonal(cosine, 0.0)
    least = np.sort(cosine, axis=0)[-5]
    expected = np.where(cosine >= least, cosine, 0.0)[[1, 25]].sum(0)
    scores = ItemKNN(last_out, neighbours=5, shrinkage=2.0, prior=0.0).score(
        Histories.of([[1, 25]]), 0, end
    )
    np.testing.assert_allclose(scores[0], expected[last_out.catalogue.pool(0)], atol=1e-5)
