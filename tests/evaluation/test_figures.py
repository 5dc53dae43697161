"""Means that leave out what says nothing, and the slices that they are taken over."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfeed.evaluation.figures import (
    WorstDomain,
    macro_figures,
    mean_figures,
    worst_domains,
)
from crossfeed.evaluation.slices import head_items, slices


def test_an_event_that_says_nothing_is_left_out_of_the_mean() -> None:
    values = {"nll": np.array([1.0, math.nan, 3.0]), "auc": np.array([1.0, 0.0, 0.5])}
    figures = mean_figures(values, pairs=np.array([0, 1, 0]))
    assert figures == {"nll": 2.0, "auc": 0.5, "gauc": pytest.approx((0.75 + 0) / 2)}


def test_a_metric_of_which_nothing_is_known_has_no_figure() -> None:
    values = {"nll": np.array([math.nan]), "auc": np.array([0.25])}
    assert mean_figures(values, np.array([0])) == {"auc": 0.25, "gauc": 0.25}
    assert mean_figures({"nll": np.zeros(0), "auc": np.zeros(0)}, np.zeros(0, np.int64)) == {}


DOMAINS = {
    "books": {"auc": 0.9, "nll": 2.0},
    "films": {"auc": 0.5},
    "games": {"auc": 0.5, "nll": 4.0},
}


def test_macro_is_over_the_domains_that_have_the_metric() -> None:
    assert macro_figures(DOMAINS) == {"auc": pytest.approx(1.9 / 3), "nll": 3.0}


def test_the_worst_domain_is_the_lowest_or_for_a_loss_the_highest() -> None:
    worst = worst_domains(DOMAINS)
    assert worst == {"auc": WorstDomain("films", 0.5), "nll": WorstDomain("games", 4.0)}


def test_head_items_got_the_first_four_fifths_of_the_clicks() -> None:
    """10 + 6 of 20 clicks are 80%: the third item begins where the head ends."""
    assert head_items(np.array([1, 10, 3, 6])).tolist() == [False, True, False, True]
    assert head_items(np.array([1, 10, 4, 6])).tolist() == [False, True, True, True]


def test_items_with_equal_clicks_are_on_one_side() -> None:
    assert head_items(np.array([2, 2, 2, 2, 2])).all()
    assert head_items(np.array([90, 5, 5])).tolist() == [True, False, False]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30))
def test_the_head_is_enough_and_not_too_much(values: list[int]) -> None:
    clicks = np.array(values)
    head = head_items(clicks)
    assert clicks[head].sum() >= 0.8 * clicks.sum()
    least = clicks[head].min()
    assert head.tolist() == (clicks >= least).tolist()
    assert clicks[clicks > least].sum() < 0.8 * clicks.sum()


def test_the_slices_divide_the_events_in_three_ways() -> None:
    warm, head = np.array([True, False, True]), np.array([False, False, True])
    chosen_by = slices(warm=warm, head=head, clicks=np.array([0, 4, 5]))
    found = {name: chosen.tolist() for name, chosen in chosen_by.items()}
    assert found == {
        "cold": [False, True, False],
        "warm": [True, False, True],
        "head": [False, False, True],
        "tail": [True, True, False],
        "new": [True, False, False],
        "few": [False, True, False],
        "many": [False, False, True],
    }
