"""Recommendations: the right items, never a forbidden one, always as many as there can be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bundles import variant
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossfeed.bundle import Bundle
from crossfeed.bundle.item_ids import ItemIds
from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import OutputError, RequestError, UnknownDomainError
from crossfeed.scorer import Histories
from crossfeed.serving.histories.history import BundleHistories, Event
from crossfeed.serving.ids import Id, restore_id
from crossfeed.serving.recommend import reading as reading_module
from crossfeed.serving.recommend.query import Query
from crossfeed.serving.recommend.ranking import best_first
from crossfeed.serving.recommend.recommender import Recommender

ITEMS = [f"a{item:02}" for item in range(20)]


@pytest.fixture(scope="module")
def recommender(bundle: Bundle) -> Recommender:
    return Recommender(bundle)


def test_the_best_items_come_first_without_what_was_seen(
    recommender: Recommender, last_out: Dataset
) -> None:
    user = 3
    events = slice(*last_out.user_offsets[user : user + 2])
    history = Histories.of([last_out.event_item[events].astype(np.int64)])
    scores = recommender.bundle.scorer.score(history, 0, last_out.end(Part.TEST))[0]
    seen = set(history.items.tolist())
    expected = [item for item in np.argsort(-scores, kind="stable") if item not in seen][:5]
    answer = recommender.recommend(user_id="u003", domain="articles", k=5)
    ids = last_out.item_ids.to_pylist()
    assert [item.item_id for item in answer.items] == [ids[item] for item in expected]
    assert [item.score for item in answer.items] == pytest.approx(scores[expected], abs=1e-5)
    assert {item.source for item in answer.items} == {"pool"}
    assert answer.fallback is None and answer.reason is None
    assert answer.model_version == recommender.bundle.version


def test_planted_taste_decides(recommender: Recommender) -> None:
    """A history in one domain puts the same taste's items first in another."""
    for taste in (0, 1):
        history = [Event(f"v{item + 10 * taste:02}", "videos", item) for item in range(6)]
        answer = recommender.recommend(history=history, domain="articles", k=10)
        liked = [int(str(item.item_id)[1:]) // 10 == taste for item in answer.items]
        assert sum(liked) >= 8


def test_seen_items_can_be_kept(recommender: Recommender) -> None:
    history = [{"item_id": item, "domain": "articles"} for item in ITEMS[:10]]
    kept = recommender.recommend(history=history, domain="articles", k=20, exclude_seen=False)
    left = recommender.recommend(history=history, domain="articles", k=20)
    assert {item.item_id for item in kept.items} == set(ITEMS)
    assert {item.item_id for item in left.items} == set(ITEMS[10:])
    assert left.reason == "10 of 20 items: 'articles' has 20, 10 of them seen by the user"


def test_a_request_history_is_ordered_by_time(recommender: Recommender) -> None:
    events = [Event(f"v{item:02}", "videos", item) for item in range(8)]
    forward = recommender.recommend(history=events, domain="articles")
    assert recommender.recommend(history=events[::-1], domain="articles") == forward


@pytest.mark.parametrize(
    "who",
    [{"user_id": "nobody"}, {"history": []}, {"history": [{"item_id": "new", "domain": "videos"}]}],
    ids=["unknown user", "empty history", "unknown items alone"],
)
def test_nothing_known_of_the_user_falls_back_on_popular_items(
    who: dict[str, Any], recommender: Recommender
) -> None:
    answer = recommender.recommend(domain="articles", k=3, **who)
    recent, clicks = recommender.bundle.recent_clicks[:20], recommender.bundle.clicks[:20]
    best = sorted(range(20), key=lambda item: (-recent[item], -clicks[item], item))[:3]
    ids = recommender.bundle.item_ids.to_pylist()
    assert [item.item_id for item in answer.items] == [ids[item] for item in best]
    assert {item.source for item in answer.items} == {"recent"}
    assert answer.fallback == "recent"


def test_unknown_items_of_a_history_are_ignored(recommender: Recommender) -> None:
    known = [{"item_id": "v01", "domain": "videos", "timestamp": 1}]
    more = [*known, {"item_id": "brand-new", "domain": "videos", "timestamp": 2}]
    assert recommender.recommend(history=more, domain="articles") == recommender.recommend(
        history=known, domain="articles"
    )


def test_candidates_of_the_request_are_ranked_and_marked(recommender: Recommender) -> None:
    answer = recommender.recommend(
        user_id="nobody", domain="articles", candidates=["a03", "a17", "new"], k=5
    )
    assert {item.item_id for item in answer.items} == {"a03", "a17"}
    answer = recommender.recommend(
        history=[Event("v01", "videos", 1)], domain="articles", candidates=["a03"], k=1
    )
    assert answer.items[0].source == "candidates"


lists = st.none() | st.lists(st.sampled_from([*ITEMS, "unknown"]), max_size=20)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    include=lists,
    exclude=lists,
    candidates=lists,
    seen=st.lists(st.sampled_from(ITEMS), max_size=20),
    k=st.integers(1, 25),
)
def test_filters_come_before_the_cut(
    recommender: Recommender,
    include: list[str] | None,
    exclude: list[str] | None,
    candidates: list[str] | None,
    seen: list[str],
    k: int,
) -> None:
    left = set(ITEMS) - set(seen) - set(exclude or ())
    for only in (include, candidates):
        left &= set(ITEMS if only is None else only)
    answer = recommender.recommend(
        history=[Event(item, "articles", 0) for item in seen],
        domain="articles",
        k=k,
        include=include,
        exclude=exclude,
        candidates=candidates,
    )
    found = [item.item_id for item in answer.items]
    assert set(found) <= left
    assert len(found) == len(set(found)) == min(k, len(left))
    for source in {item.source for item in answer.items}:
        scores = [item.score for item in answer.items if item.source == source]
        assert scores == sorted(scores, reverse=True)
    assert (answer.reason is None) == (len(found) == k)


def test_many_at_once_are_one_by_one(recommender: Recommender) -> None:
    queries = [
        Query(domains={"articles": 10}, user_id="u001"),
        Query(domains={"videos": 3}, user_id="nobody"),
        Query(domains={"shopping": 9}, history=[Event("a01", "articles", 5)], exclude=["s01"]),
        Query(domains={"videos": 2, "articles": 2}, user_id="u002"),
    ]
    together = recommender.recommend_many(queries)
    for query, answer in zip(queries, together, strict=True):
        [alone] = recommender.recommend_many([query])
        assert [item.item_id for item in alone.items] == [item.item_id for item in answer.items]
        np.testing.assert_allclose(
            [item.score for item in alone.items], [item.score for item in answer.items], atol=1e-5
        )
    assert recommender.recommend_many([]) == []


class Reads:
    """The histories of a bundle; it counts how often they are read, and how many events of each."""

    def __init__(self, bundle: Bundle) -> None:
        self._read = BundleHistories(bundle).read_many
        self.limits: list[int | None] = []

    def read_many(
        self, user_ids: Sequence[Id], *, limit: int | None = None
    ) -> list[Sequence[Event]]:
        self.limits.append(limit)
        return self._read(user_ids, limit=limit)


def test_the_histories_of_a_batch_are_read_at_once_and_not_without_end(bundle: Bundle) -> None:
    reads = Reads(bundle)
    recommender = Recommender(bundle, histories=reads)
    queries = [Query(domains={"videos": 2}, user_id=f"u{user:03}") for user in range(20)]
    together = recommender.recommend_many(queries)
    assert reads.limits == [10_000]
    for query, answer in zip(queries, together, strict=True):
        assert query.user_id is not None
        assert answer.items == Recommender(bundle).recommend_many([query])[0].items


def test_histories_that_know_nobody_are_not_replaced_by_those_of_the_bundle(
    bundle: Bundle,
) -> None:
    class Nobody(Sequence[Event]):
        """A store of which Python says that it is empty, and thus false."""

        def __len__(self) -> int:
            return 0

        def __getitem__(self, place: Any) -> Any:
            raise IndexError

        def read_many(
            self, user_ids: Sequence[Id], *, limit: int | None = None
        ) -> list[Sequence[Event]]:
            return [() for _ in user_ids]

    answer = Recommender(bundle, histories=Nobody()).recommend(user_id="u001", domain="videos")
    assert answer.fallback == "recent"


def test_lists_of_ids_are_read_once_however_many_domains_there_are(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    restored, compared = [], []
    monkeypatch.setattr(
        reading_module, "restore_id", lambda *a, **k: restored.append(a[0]) or restore_id(*a, **k)
    )
    is_in = reading_module.pc.is_in
    monkeypatch.setattr(
        reading_module.pc, "is_in", lambda *a, **k: compared.append(1) or is_in(*a, **k)
    )
    monkeypatch.setattr(ItemIds, "index", lambda *_: pytest.fail("ids are looked up one by one"))
    unknown = [f"no-{number}" for number in range(500)]
    Recommender(bundle).feed(
        dict.fromkeys(bundle.catalogue.domains, 2),
        history=[],
        include=[*unknown, "a01", "v01", "s01"],
        exclude=unknown,
    )
    assert len(restored) == 2 * 500 + 3
    assert len(compared) == 2


def test_numbers_of_numpy_are_numbers(bundle: Bundle, tmp_path: Path) -> None:
    """Any loop over a table gives them."""
    integers = variant(bundle, tmp_path / "integers", user_id_type=pa.int64(), histories=None)
    recommender = Recommender.load(integers)
    for user_id in (np.int64(7), np.int32(7), np.uint8(7)):
        found = recommender.recommend(user_id=user_id, domain="videos", k=np.int64(2))  # type: ignore[arg-type]
        assert found == recommender.recommend(user_id=7, domain="videos", k=2)
    history = [{"item_id": np.str_("a01"), "domain": "articles", "timestamp": np.int64(5)}]
    answer = recommender.recommend(history=history, domain="videos", exclude=np.array(["v01"]))  # type: ignore[arg-type]
    assert answer.fallback is None and "v01" not in {item.item_id for item in answer.items}


def test_all_users_to_parquet(recommender: Recommender, tmp_path: Path) -> None:
    out = recommender.recommend_all(tmp_path / "all.parquet", domain="videos", k=4)
    table = pq.read_table(out).to_pandas()
    assert list(table.columns) == ["user_id", "domain", "rank", "item_id", "score", "source"]
    assert table["user_id"].nunique() == 120
    for user_id in ("u000", "u077"):
        rows = table[table["user_id"] == user_id]
        answer = recommender.recommend(user_id=user_id, domain="videos", k=4)
        assert rows["rank"].tolist() == [1, 2, 3, 4]
        assert rows["item_id"].tolist() == [item.item_id for item in answer.items]
    with pytest.raises(OutputError, match="exists already"):
        recommender.recommend_all(out)
    every = recommender.recommend_all(out, k=1, overwrite=True)
    assert pq.read_metadata(every).num_rows == 120 * 3


def test_similar_items_share_the_taste(recommender: Recommender) -> None:
    answer = recommender.similar_items("a03", domain="articles", k=5)
    assert "a03" not in {item.item_id for item in answer.items}
    assert sum(int(str(item.item_id)[1:]) < 10 for item in answer.items) >= 4
    with pytest.raises(RequestError, match="item 'x' is not one of the model's items"):
        recommender.similar_items("x", domain="articles")


@pytest.mark.parametrize(
    ("arguments", "field", "message"),
    [
        ({"user_id": "u001", "k": 0}, "k", "k must be 1 to 1000; it is 0"),
        ({"user_id": "u001", "k": 1001}, "k", "k must be 1 to 1000"),
        ({"user_id": "u001", "k": True}, "k", "k must be an integer"),
        ({}, "user_id", "either user_id or history"),
        ({"user_id": "u001", "history": []}, "user_id", "and not both"),
        ({"user_id": 1.5}, "user_id", "user_id must be a string"),
        ({"history": ["a01"]}, r"history\[0\]", "a mapping with item_id"),
        ({"history": [{"item_id": "a01"}]}, r"history\[0\]", "item_id, domain and"),
        (
            {"history": [{"item_id": "a01", "domain": "articles", "when": 1}]},
            r"history\[0\]",
            "it is {'item_id'",
        ),
        (
            {"history": [{"item_id": "a01", "domain": "articles", "timestamp": "x"}]},
            r"history\[0\].timestamp",
            "milliseconds",
        ),
        ({"history": [{"item_id": None, "domain": "articles"}]}, r"history\[0\].item_id", "string"),
        ({"user_id": "u001", "include": [None]}, "include", "include must be a string"),
        ({"user_id": "u001", "include": "v01"}, "include", "include must be a list of item ids"),
        ({"user_id": "u001", "k": np.float64(3)}, "k", "k must be an integer"),
        (
            {"user_id": "u001", "include": {"a01": 1}},
            "include",
            "include must be a list of item ids",
        ),
        ({"user_id": "u001", "exclude": "a01"}, "exclude", "list of item ids; it is 'a01'"),
        ({"user_id": "u001", "candidates": 5}, "candidates", "candidates must be a list"),
        ({"user_id": "u001", "sources": "pool"}, "sources", "sources must be a list of names"),
        ({"user_id": "u001", "sources": [["pool"]]}, "sources", "sources must be a list of names"),
        ({"history": "a01"}, "history", "history must be a list of events"),
        ({"history": 5}, "history", "history must be a list of events"),
    ],
)
def test_a_request_that_is_not_valid_says_what_is(
    arguments: dict[str, Any], field: str, message: str, recommender: Recommender
) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        recommender.recommend(domain="articles", **arguments)
    assert caught.value.field == field.replace("\\", "")


def test_an_unknown_domain_names_those_that_there_are(recommender: Recommender) -> None:
    message = "domain 'films' is unknown; it is one of: articles, shopping, videos"
    with pytest.raises(UnknownDomainError, match=message):
        recommender.recommend(user_id="u001", domain="films")
    with pytest.raises(UnknownDomainError, match=message):
        recommender.recommend(history=[{"item_id": "x", "domain": "films"}], domain="articles")


@given(st.lists(st.integers(-3, 3), max_size=30), st.integers(1, 12))
def test_best_first_is_a_stable_sort(values: list[int], k: int) -> None:
    order = sorted(range(len(values)), key=lambda place: (-values[place], place))
    assert best_first(np.array(values, np.float32), k).tolist() == order[:k]
