"""Intervals and tests: exact where they can be enumerated, calibrated where they are random."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfeed.errors import RunError
from crossfeed.evaluation.outcomes import Outcomes
from crossfeed.evaluation.statistics import compare, estimates, holm, mean_over_seeds

METRIC = "ndcg@10"


def outcomes(
    values: list[float] | np.ndarray,
    *,
    users: list[int] | np.ndarray | None = None,
    domains: list[str] | None = None,
    name: str = "one",
) -> Outcomes:
    count = len(values)
    return Outcomes(
        scorer=name,
        events=np.arange(count),
        users=np.arange(count) if users is None else np.asarray(users),
        domains=np.array(domains or ["books"] * count, dtype=object),
        values={METRIC: np.asarray(values, float)},
    )


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .04, times 4 3 2 1: .04 .06 .06 .04, never falling: .04 .06 .06 .06.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_the_order_and_never_lowers(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(
        0 <= before <= after + 1e-12 <= 1 + 1e-12 for before, after in zip(p, adjusted, strict=True)
    )
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= -1e-12).all()


def test_micro_macro_and_domain_are_the_plain_means() -> None:
    found = {
        one.scope: one
        for one in estimates(outcomes([1, 0, 0, 0.5], domains=["a", "a", "a", "b"]), METRIC)
    }
    assert found["micro"].mean == pytest.approx(1.5 / 4)
    assert found["macro"].mean == pytest.approx((1 / 3 + 0.5) / 2)
    assert found["a"].mean == pytest.approx(1 / 3) and found["b"].mean == pytest.approx(0.5)
    assert [found[scope].events for scope in ("micro", "macro", "a", "b")] == [4, 4, 3, 1]


def test_events_without_the_metric_take_no_part() -> None:
    found = estimates(outcomes([1, np.nan, 0]), METRIC)[0]
    assert found.mean == pytest.approx(0.5) and found.events == 2


def test_users_are_resampled_not_events() -> None:
    rng = np.random.default_rng(0)
    by_user = rng.random(20)
    values = np.repeat(by_user, 50)  # 50 events of a user say what one says
    grouped = estimates(outcomes(values, users=np.repeat(np.arange(20), 50)), METRIC)[0]
    single = estimates(outcomes(by_user), METRIC)[0]
    independent = estimates(outcomes(values), METRIC)[0]
    assert (grouped.low, grouped.high) == pytest.approx((single.low, single.high))
    assert grouped.high - grouped.low > 4 * (independent.high - independent.low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        found = estimates(outcomes(rng.random(60)), METRIC, resamples=200, seed=trial)[0]
        covered += found.low <= 0.5 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_randomisation_test_is_that_of_all_exchanges() -> None:
    first, second = (
        np.array([0.9, 0.4, 0.8, 0.3, 0.7, 0.6]),
        np.array([0.1, 0.5, 0.3, 0.2, 0.1, 0.3]),
    )
    users = [0, 0, 1, 2, 3, 4]
    sums = np.bincount(users, first - second)
    exchanges = [abs(np.dot(signs, sums)) for signs in itertools.product([-1, 1], repeat=5)]
    exact = np.mean(np.array(exchanges) >= abs(sums.sum()) - 1e-12)
    found = compare(outcomes(first, users=users), outcomes(second, users=users), METRIC)[0]
    assert found.p == pytest.approx(exact, abs=0.01)
    assert found.difference == pytest.approx((first - second).mean())


def test_without_a_difference_p_is_about_uniform() -> None:
    rng = np.random.default_rng(1)
    p = []
    for trial in range(200):
        one, other = (outcomes(rng.random(40)) for _ in range(2))
        p.append(compare(one, other, METRIC, resamples=2, flips=200, seed=trial)[0].p)
    assert 0.02 <= np.mean(np.array(p) <= 0.1) <= 0.18
    assert 0.4 <= np.mean(p) <= 0.6


def test_a_planted_difference_is_found_where_it_is() -> None:
    rng = np.random.default_rng(2)
    base, domains = rng.random(400), ["a"] * 200 + ["b"] * 200
    better = base + np.where(np.arange(400) < 200, 0.1, 0) + rng.normal(0, 0.05, 400)
    found = {
        one.scope: one
        for one in compare(
            outcomes(better, domains=domains), outcomes(base, domains=domains), METRIC
        )
    }
    assert found["a"].p < 0.001 and found["a"].p_wilcoxon < 0.001 and found["a"].low > 0.05
    assert found["b"].p > 0.01 and found["b"].low < 0 < found["b"].high


def test_the_same_scorer_twice_is_no_difference() -> None:
    one = outcomes([0.1, 0.2, 0.3])
    for comparison in compare(one, one, METRIC):
        assert comparison.p == comparison.p_wilcoxon == 1
        assert comparison.low == comparison.high == comparison.difference == 0


def test_the_same_seed_gives_the_same_numbers() -> None:
    rng = np.random.default_rng(0)
    one, other = outcomes(rng.random(50)), outcomes(rng.random(50))
    assert compare(one, other, METRIC) == compare(one, other, METRIC)
    assert estimates(one, METRIC, seed=1) != estimates(one, METRIC, seed=2)


def test_seeds_are_averaged_by_event() -> None:
    mean = mean_over_seeds([outcomes([0.0, 1.0]), outcomes([1.0, 1.0])], name="both")
    assert mean.values[METRIC].tolist() == [0.5, 1.0] and mean.scorer == "both"


def test_different_events_are_refused() -> None:
    with pytest.raises(RunError, match="'one' and 'other' were not judged on the same events"):
        compare(outcomes([0.1, 0.2]), outcomes([0.1], name="other"), METRIC)
    with pytest.raises(RunError, match="not judged on the same events"):
        mean_over_seeds([outcomes([0.1, 0.2]), outcomes([0.1, 0.2], users=[4, 5])])


def test_a_metric_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(RunError, match=r"'one' has no metric 'map'; it has: ndcg@10"):
        estimates(outcomes([0.1]), "map")


def test_metrics_of_different_events_are_not_compared() -> None:
    with pytest.raises(RunError, match="not defined on the same events"):
        compare(outcomes([0.1, np.nan]), outcomes([np.nan, 0.1]), METRIC)
