"""Ranks, likelihood and lists of a block of scores, by hand and by their invariants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from crossfeed.evaluation import ranking
from crossfeed.evaluation.ranking import (
    Block,
    Ranks,
    Seen,
    TopLists,
    negative_log_likelihood,
    rank,
    top_lists,
)
from crossfeed.scorer import Histories


def block(
    scores: Sequence[Sequence[float]],
    targets: Sequence[int],
    seen: Sequence[Sequence[int]] = (),
) -> Block:
    array = np.array(scores, np.float32)
    histories = Histories.of(seen or [[]] * len(array))
    return Block.of(array, np.array(targets), Seen.of(histories, slice(0, array.shape[1])))


def shares(lists: TopLists, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return (B, N) the probability that an event's list holds an item."""
    dense = np.zeros(shape)
    dense[lists.rows, lists.columns] = lists.shares
    return dense


def numbers(found: Ranks) -> tuple[list[int], list[int], list[int]]:
    return found.above.tolist(), found.tied.tolist(), found.pool.tolist()


def test_the_rank_is_that_among_what_was_not_seen() -> None:
    scores = [0.9, 0.1, 0.5, 0.7]
    assert numbers(rank(block([scores], [2]))) == ([2], [1], [4])
    assert numbers(rank(block([scores], [2], [[0, 1]]))) == ([1], [1], [2])


def test_a_repeated_click_counts_once_and_its_item_is_ranked_again() -> None:
    assert numbers(rank(block([[0.9, 0.1, 0.5, 0.7]], [2], [[0, 2, 0, 2]]))) == ([1], [1], [3])


def test_ties_are_counted_with_the_target_and_without_what_was_seen() -> None:
    assert numbers(rank(block([[0.5, 0.5, 0.5, 0.1]], [0], [[1]]))) == ([0], [2], [3])


def test_an_item_outside_the_pool_is_missed() -> None:
    found = rank(block([[0.5, 0.4, 0.3]] * 2, [-1, 2], [[0], [0]]))
    assert numbers(found) == ([2, 1], [1, 1], [2, 2])
    assert found.missed.tolist() == [True, False]


def test_a_pool_without_items_has_only_misses() -> None:
    empty = block(np.zeros((2, 0)).tolist(), [-1, -1])
    assert numbers(rank(empty)) == ([0, 0], [1, 1], [0, 0])
    assert np.isnan(negative_log_likelihood(empty)).all()
    assert len(top_lists(empty, 10).rows) == 0


def test_scores_that_are_no_number_rank_last_and_tie() -> None:
    scores = [0.1, math.nan, 0.2, math.nan]
    assert numbers(rank(block([scores], [0]))) == ([1], [1], [4])
    assert numbers(rank(block([scores], [1]))) == ([2], [2], [4])
    assert numbers(rank(block([scores], [1], [[0, 1, 3]]))) == ([1], [1], [2])


def test_the_likelihood_is_that_of_a_softmax_over_what_was_not_seen() -> None:
    scores = [2.0, 1.0, 0.0, 5.0]
    whole = math.log(sum(math.exp(score) for score in scores)) - 1
    ranked = math.log(math.exp(2) + math.exp(1) + math.exp(0)) - 1
    assert negative_log_likelihood(block([scores], [1])).item() == pytest.approx(whole)
    assert negative_log_likelihood(block([scores], [1], [[3]])).item() == pytest.approx(ranked)
    again = negative_log_likelihood(block([scores], [1], [[1, 3]])).item()
    assert again == pytest.approx(ranked)


def test_a_seen_item_of_great_score_costs_no_digits() -> None:
    loss = negative_log_likelihood(block([[0.0, 0.0, 80.0]], [0], [[2]])).item()
    assert loss == pytest.approx(math.log(2), rel=1e-6)


def test_the_likelihood_of_a_miss_is_none_and_without_a_score_it_is_infinite() -> None:
    losses = negative_log_likelihood(
        block([[1.0, 2.0], [1.0, math.nan], [math.nan, math.nan], [math.inf, 0.0]], [-1, 1, 0, 1])
    )
    assert math.isnan(losses[0])
    assert losses[1:].tolist() == [math.inf] * 3


def test_a_list_holds_the_best_that_were_not_seen() -> None:
    lists = top_lists(block([[0.9, 0.1, 0.5, 0.7]], [1], [[0]]), 2)
    assert lists.columns.tolist() == [2, 3]
    assert lists.shares.tolist() == [1, 1]


def test_a_list_never_learns_the_answer() -> None:
    """A repeated click is ranked, but it was seen, so it would not be recommended."""
    assert top_lists(block([[0.9, 0.1]], [0], [[0]]), 1).columns.tolist() == [1]


def test_items_that_tie_share_the_end_of_the_list() -> None:
    lists = top_lists(block([[3.0, 1.0, 1.0, 1.0, 0.0]], [0]), 3)
    assert lists.columns.tolist() == [0, 1, 2, 3]
    assert lists.shares.tolist() == pytest.approx([1, 2 / 3, 2 / 3, 2 / 3])


@pytest.mark.parametrize("k", [3, 4, 10])
def test_a_list_is_as_long_as_there_are_items(k: int) -> None:
    lists = top_lists(block([[0.3, math.nan, 0.1, 0.2]] * 2, [0, 0], [[], [3]]), k)
    assert lists.rows.tolist() == [0, 0, 0, 1, 1]
    assert lists.shares.tolist() == [1] * 5


@dataclass(frozen=True)
class Case:
    """Whole-numbered scores, so that many tie; seen items, targets inside and outside the pool."""

    scores: NDArray[np.float32]
    targets: NDArray[np.int64]
    seen: list[list[int]]

    def block(self, rows: Sequence[int] | None = None, order: Sequence[int] | None = None) -> Block:
        """Return the block of some rows, with column `order[c]` put at `c`."""
        chosen = list(range(len(self.scores)) if rows is None else rows)
        columns = np.arange(self.scores.shape[1]) if order is None else np.array(order)
        place = np.append(np.argsort(columns), -1)
        histories = Histories.of([[int(place[item]) for item in self.seen[row]] for row in chosen])
        return Block.of(
            self.scores[chosen][:, columns],
            place[self.targets[chosen]],
            Seen.of(histories, slice(0, len(columns))),
        )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rows, items = draw(st.integers(1, 4)), draw(st.integers(1, 90))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from([1, 3, 1000]))
    few = st.lists(st.integers(0, items - 1), max_size=6)
    return Case(
        scores=rng.integers(0, levels, (rows, items)).astype(np.float32),
        targets=rng.integers(-1, items, rows),
        seen=[draw(few) for _ in range(rows)],
    )


@given(cases(), st.integers(1, 12))
def test_each_row_is_what_counting_gives(case: Case, k: int) -> None:
    found, lists = rank(case.block()), shares(top_lists(case.block(), k), case.scores.shape)
    losses = negative_log_likelihood(case.block())
    for row, scores in enumerate(case.scores.astype(float)):
        target, seen = int(case.targets[row]), set(case.seen[row])
        others = [scores[item] for item in range(len(scores)) if item not in seen | {target}]
        if target < 0:
            expected = (len(others), 1, len(others))
            assert math.isnan(losses[row])
        else:
            above = sum(score > scores[target] for score in others)
            expected = (above, others.count(scores[target]) + 1, len(others) + 1)
            gaps = np.array([*others, scores[target]]) - scores[target]
            assert losses[row] == pytest.approx(np.logaddexp.reduce(gaps), rel=1e-5, abs=1e-6)
        assert (found.above[row], found.tied[row], found.pool[row]) == expected
        unseen = [item for item in range(len(scores)) if item not in seen]
        for item in range(len(scores)):
            above = sum(scores[other] > scores[item] for other in unseen)
            tied = sum(scores[other] == scores[item] for other in unseen)
            share = min(1, max(0, k - above) / tied) if item in unseen else 0
            assert lists[row, item] == pytest.approx(share)


@given(cases(), st.integers(1, 12), st.randoms(use_true_random=False))
def test_the_order_of_the_items_changes_nothing(case: Case, k: int, random: Random) -> None:
    order = list(range(case.scores.shape[1]))
    random.shuffle(order)
    one, other = case.block(), case.block(order=order)
    assert numbers(rank(one)) == numbers(rank(other))
    np.testing.assert_allclose(
        negative_log_likelihood(one), negative_log_likelihood(other), rtol=1e-5, atol=1e-6
    )
    here, there = (shares(top_lists(each, k), case.scores.shape) for each in (one, other))
    np.testing.assert_allclose(here[:, order], there)


@given(cases(), st.integers(1, 12))
def test_a_row_is_the_same_alone(case: Case, k: int) -> None:
    together = case.block()
    lists = shares(top_lists(together, k), case.scores.shape)
    for row in range(len(case.scores)):
        alone = case.block(rows=[row])
        for part in ("above", "tied", "pool"):
            assert getattr(rank(together), part)[row] == getattr(rank(alone), part).item()
        np.testing.assert_allclose(
            negative_log_likelihood(together)[row],
            negative_log_likelihood(alone).item(),
            rtol=1e-6,
        )
        own = shares(top_lists(alone, k), (1, case.scores.shape[1]))
        np.testing.assert_array_equal(lists[row], own[0])


@given(st.integers(1, 60), st.integers(1, 12))
def test_constant_scores_are_chance(items: int, k: int) -> None:
    flat = block([[1.5] * items], [0])
    assert numbers(rank(flat)) == ([0], [items], [items])
    assert negative_log_likelihood(flat).item() == pytest.approx(math.log(items), abs=1e-6)
    assert top_lists(flat, k).shares.tolist() == pytest.approx([min(1, k / items)] * items)


@pytest.mark.parametrize("group", [1, 3, 8])
def test_looking_at_groups_first_changes_no_list(
    group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(20, 1_003)).astype(np.float32)
    scores[::2] = scores[::2].round()
    monkeypatch.setattr(ranking, "_GROUP", group)
    nothing = Seen(np.zeros(0, np.int64), np.zeros(0, np.int64))
    lists = top_lists(Block.of(scores, np.zeros(20, np.int64), nothing), 7)
    dense = shares(lists, scores.shape)
    least = np.sort(scores, axis=1)[:, -7, None]
    np.testing.assert_array_equal(dense > 0, scores >= least)
    np.testing.assert_array_equal(dense[scores > least], 1)
    np.testing.assert_allclose(dense.sum(axis=1), 7)


def test_scores_are_left_as_they_are() -> None:
    scores = np.array([[0.9, math.nan, 0.5]], np.float32)
    scores.flags.writeable = False
    Block.of(scores, np.array([2]), Seen(np.array([0]), np.array([0])))
    assert scores[0, 0] == np.float32(0.9)
