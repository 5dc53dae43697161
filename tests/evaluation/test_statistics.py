"""Intervals and tests: exact where they can be enumerated, calibrated where they are random."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfeed.errors import RunError
from crossfeed.evaluation.outcomes import Outcomes
from crossfeed.evaluation.statistics import resampling
from crossfeed.evaluation.statistics.comparisons import (
    Comparison,
    Estimate,
    compare,
    estimates,
    flips_for,
    holm,
    mean_over_seeds,
)
from crossfeed.evaluation.statistics.resampling import drawn_users, wilcoxon_test

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


def width(found: Estimate) -> float:
    assert found.low is not None and found.high is not None
    return found.high - found.low


def test_users_are_resampled_not_events() -> None:
    rng = np.random.default_rng(0)
    by_user = rng.random(20)
    values = np.repeat(by_user, 50)  # 50 events of a user say what one says
    grouped = estimates(outcomes(values, users=np.repeat(np.arange(20), 50)), METRIC)[0]
    single = estimates(outcomes(by_user), METRIC)[0]
    independent = estimates(outcomes(values), METRIC)[0]
    assert (grouped.low, grouped.high) == pytest.approx((single.low, single.high))
    assert width(grouped) > 4 * width(independent)


def test_one_user_with_many_events_widens_the_interval() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.random(100), np.ones(100)])
    of_one_user = np.concatenate([np.arange(100), np.full(100, 100)])
    whole = estimates(outcomes(values, users=of_one_user), METRIC)[0]
    assert (whole.events, whole.users) == (200, 101)
    assert width(whole) > 2 * width(estimates(outcomes(values), METRIC)[0])


def test_one_user_alone_has_no_interval_and_proves_nothing() -> None:
    values, users, domains = [1, 1, 0, 0.5], [0, 0, 1, 1], ["a", "a", "a", "b"]
    alone = estimates(outcomes(values, users=users, domains=domains), METRIC)[-1]
    assert (alone.scope, alone.users, alone.mean) == ("b", 1, 0.5)
    assert alone.low is None and alone.high is None
    one, other = (
        outcomes(given, users=users, domains=domains) for given in (values, [0, 0, 0, 0.0])
    )
    against = compare(one, other, METRIC)[-1]
    assert (against.p, against.low, against.first_low, against.second_high) == (1, None, None, None)


def test_every_resample_draws_as_many_users_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "_CELLS_AT_ONCE", 30)
    blocks = list(drawn_users(10, resamples=7, seed=0))
    assert [block.shape for block in blocks] == [(10, 3), (10, 3), (10, 1)]
    drawn = np.concatenate(blocks, axis=1)
    assert (drawn.sum(axis=0) == 10).all() and (drawn >= 0).all()
    assert len(np.unique(drawn, axis=1).T) == 7


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        found = estimates(outcomes(rng.random(60)), METRIC, resamples=200, seed=trial)[0]
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.5 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


# Six users; the first has most clicks, the second is in both domains.
USERS = [0, 0, 0, 1, 1, 2, 3, 4, 5]
DOMAINS = ["a", "a", "a", "a", "b", "b", "a", "b", "b"]
FIRST = np.array([0.9, 0.4, 0.8, 0.3, 0.7, 0.6, 0.5, 0.9, 0.2])
SECOND = np.array([0.1, 0.5, 0.3, 0.2, 0.1, 0.3, 0.6, 0.2, 0.1])


def scope_figures(values: np.ndarray) -> dict[str, float]:
    in_a = np.array(DOMAINS) == "a"
    a, b = values[in_a].mean(), values[~in_a].mean()
    return {"micro": values.mean(), "macro": (a + b) / 2, "a": a, "b": b}


@pytest.mark.parametrize("cells", [10, 8_000_000])  # one flip at a time, and all at once
def test_the_randomisation_test_is_that_of_all_exchanges(
    cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "_CELLS_AT_ONCE", cells)
    difference = FIRST - SECOND
    observed = scope_figures(difference)
    exchanged = [
        scope_figures(difference * np.array(signs)[USERS])
        for signs in itertools.product([-1, 1], repeat=6)
    ]
    for one in compare(
        outcomes(FIRST, users=USERS, domains=DOMAINS),
        outcomes(SECOND, users=USERS, domains=DOMAINS),
        METRIC,
    ):
        extreme = [
            abs(figures[one.scope]) >= abs(observed[one.scope]) - 1e-12 for figures in exchanged
        ]
        assert one.difference == pytest.approx(observed[one.scope])
        assert one.p == pytest.approx(np.mean(extreme), abs=0.015)


def test_without_a_difference_p_is_about_uniform() -> None:
    rng = np.random.default_rng(1)
    p = []
    for trial in range(200):
        one, other = (outcomes(rng.random(40)) for _ in range(2))
        p.append(compare(one, other, METRIC, resamples=2, flips=200, seed=trial)[0].p)
    assert 0.02 <= np.mean(np.array(p) <= 0.1) <= 0.18
    assert 0.4 <= np.mean(p) <= 0.6


def test_events_of_a_user_that_agree_are_no_evidence_of_their_own() -> None:
    rng = np.random.default_rng(3)
    users = np.repeat(np.arange(30), 20)
    p = []
    for trial in range(100):
        one, other = (outcomes(rng.random(30)[users], users=users) for _ in range(2))
        p.append(compare(one, other, METRIC, resamples=2, flips=200, seed=trial)[0].p)
    assert np.mean(np.array(p) <= 0.1) <= 0.2  # flipping events would give .5 or more


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
    a, b = found["a"], found["b"]
    assert a.p < 0.001 and a.p_wilcoxon < 0.001
    assert a.low is not None and a.low > 0.05
    assert b.p > 0.01
    assert b.low is not None and b.high is not None and b.low < 0 < b.high


def test_the_same_scorer_twice_is_no_difference() -> None:
    one = outcomes([0.1, 0.2, 0.3])
    for comparison in compare(one, one, METRIC):
        assert comparison.p == comparison.p_wilcoxon == 1
        assert comparison.low == comparison.high == comparison.difference == 0


def test_a_comparison_shows_the_intervals_of_both() -> None:
    rng = np.random.default_rng(0)
    one, other = outcomes(rng.random(50)), outcomes(rng.random(50))
    for found, first, second in zip(
        compare(one, other, METRIC), estimates(one, METRIC), estimates(other, METRIC), strict=True
    ):
        assert (found.first, found.first_low, found.first_high) == (
            first.mean,
            first.low,
            first.high,
        )
        assert (found.second, found.second_low, found.second_high) == (
            second.mean,
            second.low,
            second.high,
        )


def comparison(metric: str, *, first: float, second: float, p_holm: float) -> Comparison:
    return Comparison(
        scope="micro",
        metric=metric,
        events=9,
        users=9,
        first=first,
        first_low=None,
        first_high=None,
        second=second,
        second_low=None,
        second_high=None,
        low=None,
        high=None,
        p=p_holm,
        p_wilcoxon=p_holm,
        p_holm=p_holm,
    )


@pytest.mark.parametrize(
    ("metric", "first", "p_holm", "better"),
    [
        ("ndcg@10", 0.3, 0.05, "first"),
        ("ndcg@10", 0.1, 0.05, "second"),
        ("ndcg@10", 0.3, 0.051, "not sure"),
        ("ndcg@10", 0.3, float("nan"), "not sure"),  # before Holm nothing is sure
        ("nll", 0.3, 0.01, "second"),
        ("nll", 0.1, 0.01, "first"),
    ],
)
def test_who_is_better(metric: str, first: float, p_holm: float, better: str) -> None:
    assert comparison(metric, first=first, second=0.2, p_holm=p_holm).better == better


def test_equal_differences_tie_whatever_their_rounding() -> None:
    assert 0.1 + 0.2 != 0.3
    rounded, exact = [0.1 + 0.2, 0.3, -0.3, 0.5, 0.6, 0.7], [3, 3, -3, 5, 6, 7]
    assert wilcoxon_test(np.array(rounded)) == wilcoxon_test(np.array(exact, float))


@pytest.mark.parametrize("comparisons", [1, 24, 100, 101, 5_000])
def test_the_smallest_p_survives_holm(comparisons: int) -> None:
    flips = flips_for(comparisons)
    assert flips >= 10_000
    assert comparisons / (1 + flips) < 0.01


def test_the_same_seed_gives_the_same_numbers() -> None:
    rng = np.random.default_rng(0)
    one, other = outcomes(rng.random(50)), outcomes(rng.random(50))
    assert compare(one, other, METRIC) == compare(one, other, METRIC)
    assert estimates(one, METRIC, seed=1) != estimates(one, METRIC, seed=2)


def test_seeds_are_averaged_by_event() -> None:
    mean = mean_over_seeds([outcomes([0.0, 1.0]), outcomes([1.0, 1.0])], name="both")
    assert mean.values[METRIC].tolist() == [0.5, 1.0] and mean.scorer == "both"


def test_different_events_are_refused() -> None:
    with pytest.raises(
        RunError,
        match="'one' and 'other' were not judged on the same events: 2 and 1, 1 of them in both",
    ):
        compare(outcomes([0.1, 0.2]), outcomes([0.1], name="other"), METRIC)
    with pytest.raises(RunError, match="not judged on the same events"):
        mean_over_seeds([outcomes([0.1, 0.2]), outcomes([0.1, 0.2], users=[4, 5])])


def test_a_metric_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(RunError, match=r"'one' has no metric 'map'; it has: ndcg@10"):
        estimates(outcomes([0.1]), "map")


def test_metrics_of_different_events_are_not_compared() -> None:
    with pytest.raises(RunError, match="not defined on the same events"):
        compare(outcomes([0.1, np.nan]), outcomes([np.nan, 0.1]), METRIC)


@pytest.mark.parametrize("infinite", [np.inf, -np.inf])
def test_an_infinite_metric_is_refused_with_scorer_and_metric(infinite: float) -> None:
    """Between two identical scorers it once gave p = .0001."""
    finite, other = outcomes([0.1, 0.2, 0.3]), outcomes([0.1, infinite, 0.3], name="other")
    message = (
        r"the ndcg@10 of 'other' is infinite for 1 of 3 events.*\nhint: compare by a rank metric"
    )
    for pair in ((other, other), (finite, other), (other, finite)):
        with pytest.raises(RunError, match=message):
            compare(*pair, METRIC)
    with pytest.raises(RunError, match=message):
        estimates(other, METRIC)
    with pytest.raises(RunError, match="the ndcg@10 of 'both' is infinite"):
        compare(finite, mean_over_seeds([finite, other], name="both"), METRIC)


def test_without_a_number_of_flips_there_are_enough_for_the_domains() -> None:
    """With 10,000 flips and 300 domains the smallest p after Holm would be 0.03."""
    domains = [f"{number:03}" for number in range(300) for _ in range(40)]
    better = np.where(np.array(domains) == "007", 0.5, 0.0)
    found = compare(
        outcomes(better, domains=domains),
        outcomes(0 * better, domains=domains),
        METRIC,
        resamples=2,
    )
    adjusted = holm([one.p for one in found])
    place = next(place for place, one in enumerate(found) if one.scope == "007")
    assert adjusted[place] < 0.011


def test_a_metric_that_says_nothing_is_refused() -> None:
    with pytest.raises(RunError, match=r"'ndcg@10' says nothing about any event of 'one'"):
        estimates(outcomes([np.nan, np.nan]), METRIC)
