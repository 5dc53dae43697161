"""What `evaluate` reports: by hand on toy datasets, and the same however it is computed."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from demanding import with_demand
from planted import tiny_config
from toy import NEW, Constant, WholeNumbers, toy_dataset

from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import ConfigError
from crossfeed.evaluation import judgement
from crossfeed.evaluation.clock import Clock
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.evaluation.figures import WorstDomain
from crossfeed.evaluation.results import Results
from crossfeed.model.network_scorer import NetworkScorer
from crossfeed.model.players import Players

TRAIN, TEST = Part.TRAIN, Part.TEST


@pytest.fixture
def two_domains() -> Dataset:
    """Books with 5 items, the first is the head and the last is new, and films with 2.

    User 0 clicked book 1, then book 0, film 0 and the new book; user 1 clicked film 1, then book 3.
    """
    return toy_dataset(
        {"books": [16, 2, 1, 1], "films": [1, 1]},
        [
            (0, "books", 1, TRAIN),
            (0, "books", 0, TEST),
            (0, "films", 0, TEST),
            (0, "books", NEW, TEST),
            (1, "films", 1, TRAIN),
            (1, "books", 3, TEST),
        ],
        crowd=True,
    )


SCORER = Constant({0: [0.0, 9.0, 2.0, 1.0, 99.0], 1: [1.0, 1.0]})
"""Prefers book 2 to 3 to 0 where book 1 is seen, and the new book to all; knows no films."""


def test_outcomes_by_hand(two_domains: Dataset) -> None:
    outcomes = evaluate(SCORER, two_domains).outcomes
    assert outcomes.events.tolist() == [1, 2, 3, 5]
    assert outcomes.users.tolist() == [0, 0, 0, 1]
    assert outcomes.domains.tolist() == ["books", "films", "books", "books"]
    # Book 0 is third of three; film 0 shares two places; the new book is missed, though it has the
    # best score; book 3 is third of four.
    assert outcomes.values["mrr"].tolist() == pytest.approx([1 / 3, 3 / 4, 0, 1 / 3])
    assert outcomes.values["auc"].tolist() == pytest.approx([0, 1 / 2, 0, 1 / 3])
    total = math.log(1 + math.exp(2) + math.exp(1))
    whole = math.log(1 + math.exp(9) + math.exp(2) + math.exp(1))
    expected = [total, math.log(2), math.nan, whole - 1]
    np.testing.assert_allclose(outcomes.values["nll"], expected, rtol=1e-6)


def test_means_by_hand(two_domains: Dataset) -> None:
    results = evaluate(SCORER, two_domains, k=2)
    books, films = results.domains["books"], results.domains["films"]
    assert (results.events, results.unknown_share) == (4, 1 / 4)
    assert (books["events"], books["unknown_share"]) == (3, pytest.approx(1 / 3))
    assert (films["events"], films["unknown_share"]) == (1, 0)
    assert (books["recall@2"], films["recall@2"]) == (0, 1)
    assert results.micro["recall@2"] == 1 / 4
    assert results.macro["recall@2"] == 1 / 2
    assert results.worst["recall@2"] == WorstDomain("books", 0)
    assert results.worst["nll"].domain == "books"
    # Pairs: user 0 in books (0 and 0), user 1 in books (1/3), user 0 in films (1/2).
    assert books["gauc"] == pytest.approx(1 / 6)
    assert results.micro["gauc"] == pytest.approx((0 + 1 / 3 + 1 / 2) / 3)
    assert results.macro["gauc"] == pytest.approx((1 / 6 + 1 / 2) / 2)


def test_slices_by_hand(two_domains: Dataset) -> None:
    slices = evaluate(SCORER, two_domains).slices
    events = {name: figures["events"] for name, figures in slices.items()}
    items = {"head": 2, "tail": 2, "new": 1, "few": 2, "many": 1}
    assert events == {"cold": 2, "warm": 2, **items}
    # Cold: film 0 and book 3. Warm: book 0 and the new book. Both films are head, and book 0.
    assert slices["cold"]["mrr"] == pytest.approx((3 / 4 + 1 / 3) / 2)
    assert slices["warm"]["mrr"] == pytest.approx((1 / 3 + 0) / 2)
    assert slices["head"]["mrr"] == pytest.approx((1 / 3 + 3 / 4) / 2)
    assert slices["tail"]["mrr"] == pytest.approx((0 + 1 / 3) / 2)
    assert slices["tail"]["nll"] > 0  # of the one that existed
    assert slices["new"]["mrr"] == 0
    assert slices["few"]["mrr"] == pytest.approx((3 / 4 + 1 / 3) / 2)
    assert slices["many"]["mrr"] == pytest.approx(1 / 3)


def test_an_item_exists_from_the_moment_after_its_first_click() -> None:
    """User 0 is first; at the same time, and in the same interval, the book is new to user 1."""
    clicks = [(0, "books", NEW, TEST), (1, "books", NEW, TEST), (2, "books", NEW, TEST)]
    dataset = toy_dataset({"books": [16, 2]}, clicks, crowd=True)
    scorer = Constant({0: [0.0, 1.0, 2.0]})
    for times, refresh, found in (
        ([0, 0, 1], 0, [0, 0, 1]),
        ([0, 1, 2], 0, [0, 1, 1]),
        ([0, 1000, 2000], 2, [0, 0, 1]),
        ([0, 1, 3_600_000], 3600, [0, 0, 1]),
    ):
        dataset.event_time[:3] = times
        fresh = dataclasses.replace(dataset)
        results = evaluate(scorer, fresh, refresh_seconds=refresh, frozen=True)
        assert results.outcomes.values["mrr"].tolist() == found
        assert (results.protocol, results.refresh_seconds) == ("live", refresh)
        assert results.frozen is not None  # nobody clicked it in training
        assert results.frozen.outcomes.values["mrr"].tolist() == [0, 0, 0]
        assert (results.frozen.protocol, results.frozen.unknown_share) == ("frozen", 1)


def test_a_scorer_of_vectors_is_judged_as_any_other(last_out: Dataset) -> None:
    """Users are encoded together, and only the biases follow the moments."""
    torch.manual_seed(0)
    players = with_demand(Players(last_out.catalogue, tiny_config().model))
    scorer = NetworkScorer(last_out.catalogue, players)

    class Plain:
        name = "plain"
        score = staticmethod(scorer.score)

    one, other = (
        evaluate(each, last_out, refresh_seconds=7200, frozen=True) for each in (scorer, Plain())
    )
    same(one, other)
    assert one.frozen is not None
    assert other.frozen is not None
    same(one.frozen, other.frozen)
    assert one.micro != one.frozen.micro


def test_shares_of_the_personal_part_are_judged_as_their_scores_are(last_out: Dataset) -> None:
    torch.manual_seed(0)
    players = with_demand(Players(last_out.catalogue, tiny_config().model))
    scorer, clock = NetworkScorer(last_out.catalogue, players), Clock(last_out, TEST)
    events, shares = last_out.events(TEST), (1.0, 0.5)
    sums = judgement.judge_shares(scorer, last_out, events, clock=clock, shares=shares)
    for share, found in zip(shares, sums, strict=True):
        players.personal_share.fill_(share)
        expected = evaluate(scorer, last_out).micro["ndcg@10"]
        assert found / len(events) == pytest.approx(expected)
    assert sums[0] != sums[1]


def test_less_than_no_time_between_refreshes_is_refused(last_out: Dataset) -> None:
    with pytest.raises(ConfigError, match="refresh_seconds = -1; it is 0"):
        evaluate(WholeNumbers(last_out.catalogue), last_out, refresh_seconds=-1)


def test_lists_by_hand(two_domains: Dataset) -> None:
    """Lists of one: books 2, 2 (book 1 is seen; later 0 too) and 1; film 0 or film 1."""
    lists = evaluate(SCORER, two_domains, k=1).lists
    assert lists.domains["books"] == {
        "coverage@1": pytest.approx(2 / 5),
        "gini@1": pytest.approx((2 * 1 + 4 * 2) / (5 * 3)),
        "novelty@1": pytest.approx((2 * math.log2(20) + math.log2(10)) / 3),
    }
    assert lists.domains["films"] == pytest.approx(
        {"coverage@1": 1 / 2, "gini@1": 0, "novelty@1": 1}
    )
    assert lists.micro["coverage@1"] == pytest.approx((2 + 1) / 7)
    assert lists.macro["coverage@1"] == pytest.approx((2 / 5 + 1 / 2) / 2)


def test_a_slice_without_events_says_so(new_in_domain: Dataset) -> None:
    slices = evaluate(WholeNumbers(new_in_domain.catalogue), new_in_domain).slices
    assert slices["warm"] == {"events": 0}
    assert slices["cold"]["events"] == len(new_in_domain.events(TEST))


def test_k_names_and_bounds_the_lists(last_out: Dataset) -> None:
    results = evaluate(WholeNumbers(last_out.catalogue), last_out, k=3)
    assert {"ndcg@3", "recall@3", "hit@3", "mrr@3", "map@3"} < results.micro.keys()
    assert {"coverage@3", "gini@3", "novelty@3"} == results.lists.micro.keys()
    longer = evaluate(WholeNumbers(last_out.catalogue), last_out)
    assert results.micro["recall@3"] < longer.micro["recall@10"]
    with pytest.raises(ConfigError, match="k = 0, but a list has at least 1 item"):
        evaluate(WholeNumbers(last_out.catalogue), last_out, k=0)


def same(one: Results, other: Results) -> None:
    """Demand equal outcomes, and equal figures up to the order of a sum."""
    assert one.outcomes.values.keys() == other.outcomes.values.keys()
    for name, values in one.outcomes.values.items():
        np.testing.assert_allclose(values, other.outcomes.values[name], rtol=1e-6, err_msg=name)
    assert one.micro == pytest.approx(other.micro)
    for level in ("micro", "macro"):
        assert getattr(one.lists, level) == pytest.approx(getattr(other.lists, level))


@pytest.mark.parametrize("cells", [1, 700])
def test_the_size_of_a_chunk_changes_nothing(
    cells: int, last_out: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = WholeNumbers(last_out.catalogue)
    whole = evaluate(scorer, last_out)
    assert sum(scorer.rows) == len(last_out.events(TEST))
    monkeypatch.setattr(judgement, "_CELLS_AT_ONCE", cells)
    streamed = WholeNumbers(last_out.catalogue)
    same(whole, evaluate(streamed, last_out))
    assert max(streamed.rows) <= cells // 20 + 1  # 20 items in each pool
    assert sum(streamed.rows) == len(last_out.events(TEST))


def test_long_histories_make_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of 200 clicks on 2 items costs what the history does, not what the scores do."""
    clicks = [(0, "books", at % 2, TRAIN) for at in range(100)]
    dataset = toy_dataset(
        {"books": [50, 50]},
        clicks + [(0, "books", at % 2, TEST) for at in range(100)],
        crowd=True,
    )
    scorer = WholeNumbers(dataset.catalogue)
    monkeypatch.setattr(judgement, "_CELLS_AT_ONCE", 2_000)
    evaluate(scorer, dataset)
    assert sum(scorer.rows) == 100
    assert max(scorer.rows) <= 2_000 // (4 * 100) + 1


def test_an_evaluation_draws_nothing(last_out: Dataset) -> None:
    """Sampled negatives, drawn anew each time, would change the figures of one model."""
    scorer = WholeNumbers(last_out.catalogue)
    np.random.seed(1)
    first = json.dumps(evaluate(scorer, last_out).to_json())
    np.random.seed(2)
    assert json.dumps(evaluate(scorer, last_out).to_json()) == first


def test_auc_is_that_of_the_whole_pool(last_out: Dataset) -> None:
    """Against every unseen item of the domain, not a hundred of them."""
    scorer = WholeNumbers(last_out.catalogue)
    results = evaluate(scorer, last_out)
    for at, event in enumerate(results.outcomes.events[:40].tolist()):
        domain = int(last_out.event_domain[event])
        pool = last_out.catalogue.pool(domain)
        history = last_out.histories(np.array([event]), TEST)
        time = int(last_out.event_time[event]) // 3_600_000 * 3_600_000
        moment = last_out.moment(time, TEST)
        scores = scorer.score(history, domain, moment)[0]
        exists = moment.exists(domain)
        target = int(last_out.event_item[event]) - pool.start
        seen = set((history.items - pool.start).tolist())
        if not exists[target]:
            continue
        there = set(np.flatnonzero(exists).tolist()) - seen - {target}
        others = [scores[item] for item in there]
        wins = np.mean([(scores[target] > s) + (scores[target] == s) / 2 for s in others])
        assert results.outcomes.values["auc"][at] == pytest.approx(wins)


def test_hits_are_counted_per_event_where_there_are_fewer_items_than_k() -> None:
    """Both users find their book in a list of 3 and of 2: a hit rate of 1, and nothing breaks."""
    dataset = toy_dataset(
        {"books": [1, 1, 1]},
        [
            (0, "books", 0, TRAIN),
            (0, "books", 1, TEST),
            (0, "books", 2, TEST),
            (1, "books", 2, TEST),
        ],
        crowd=True,
    )
    results = evaluate(Constant({0: [3.0, 2.0, 1.0]}), dataset, k=10)
    assert results.micro["hit@10"] == 1.0
    assert results.lists.micro["coverage@10"] == 1.0
    assert all(isinstance(value, float) for value in results.micro.values())


def test_a_domain_of_one_class_leaves_the_others_alone() -> None:
    """One pool of a single item, and one domain of which training saw no test item."""
    clicks = {"books": [2, 1, 1], "films": [1], "games": [1, 1]}
    books = [(0, "books", 1, TEST), (1, "books", 2, TEST)]
    odd = [(2, "films", 0, TEST), (3, "games", NEW, TEST)]
    scorer = Constant({0: [0.0, 2.0, 1.0], 1: [5.0], 2: [0.0, 0.0, 0.0]})
    alone = evaluate(scorer, toy_dataset(clicks, books, crowd=True))
    together = evaluate(scorer, toy_dataset(clicks, books + odd, crowd=True))
    assert together.domains["books"] == alone.domains["books"]
    assert together.domains["films"]["auc"] == together.domains["films"]["gauc"] == 0.5
    assert together.domains["films"]["nll"] == 0
    games = together.domains["games"]
    assert (games["unknown_share"], games["auc"]) == (1, 0)
    assert "nll" not in games
    assert together.macro["nll"] == pytest.approx((alone.micro["nll"] + 0) / 2)
    assert together.macro["auc"] == pytest.approx((alone.micro["auc"] + 0.5 + 0) / 3)
    json.dumps(together.to_json(), allow_nan=False)


def test_a_domain_in_which_nothing_exists_has_only_misses() -> None:
    dataset = toy_dataset(
        {"books": [1, 1], "films": []},
        [(0, "books", 0, TEST), (1, "films", NEW, TEST)],
        crowd=True,
    )
    results = evaluate(Constant({0: [1.0, 0.0], 1: [1.0]}), dataset)
    assert results.domains["films"]["recall@10"] == 0
    assert results.lists.domains["films"] == {"coverage@10": 0}
    assert results.macro["recall@10"] == 1 / 2
    json.dumps(results.to_json(), allow_nan=False)


def test_an_infinite_loss_is_null_in_json() -> None:
    dataset = toy_dataset({"books": [1, 1]}, [(0, "books", 0, TEST)], crowd=True)
    results = evaluate(Constant({0: [math.nan, 1.0]}), dataset)
    assert results.micro["nll"] == math.inf
    written = json.loads(json.dumps(results.to_json(), allow_nan=False))
    assert written["micro"]["nll"] is None
    assert written["worst"]["nll"] == {"domain": "books", "value": None}
    assert written["slices"]["cold"]["nll"] is None


def test_json_keeps_what_was_there_and_adds_beside_it(last_out: Dataset) -> None:
    written = evaluate(
        WholeNumbers(last_out.catalogue), last_out, baselines=["popularity"]
    ).to_json()
    assert {"scorer", "part", "micro", "macro", "domains", "baselines"} <= written.keys()
    assert {"worst", "slices", "lists", "events", "unknown_share"} <= written.keys()
    assert {"protocol", "refresh_seconds", "frozen"} <= written.keys()
    for figures in (written["micro"], written["macro"], written["domains"]["videos"]):
        assert {"ndcg@10", "recall@10", "mrr", "auc"} <= figures.keys()
    assert written["baselines"]["popularity"].keys() == written.keys()
