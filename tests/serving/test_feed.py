"""A feed over several domains: exactly its quotas, each domain in its own order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from crossfeed.bundle import Bundle
from crossfeed.errors import RequestError, UnknownDomainError
from crossfeed.serving.histories.history import BundleHistories, Event
from crossfeed.serving.histories.sqlite.store import SqliteHistoryStore
from crossfeed.serving.http.app import create_app
from crossfeed.serving.ids import Id
from crossfeed.serving.recommend.answers import Recommendation
from crossfeed.serving.recommend.fallback import FallbackChain
from crossfeed.serving.recommend.pipeline import Answered
from crossfeed.serving.recommend.query import Query
from crossfeed.serving.recommend.ranking import Ranked
from crossfeed.serving.recommend.recommender import Recommender
from crossfeed.serving.recommend.reranking import blend


@pytest.fixture(scope="module")
def recommender(bundle: Bundle) -> Recommender:
    return Recommender(bundle)


@pytest.fixture
def client(bundle: Bundle, tmp_path: Path) -> Iterator[TestClient]:
    app = create_app(bundle, store=SqliteHistoryStore(tmp_path / "store.sqlite"))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def ranked(domain: str, count: int) -> Ranked:
    items = [Recommendation(f"{domain}{n}", domain, -float(n), "pool") for n in range(count)]
    return Ranked(tuple(items), count)


def test_two_domains_by_hand() -> None:
    # Places: a 1/8 3/8 5/8 7/8, b 1/4 3/4.
    feed = blend([ranked("a", 4), ranked("b", 2)])
    assert [item.item_id for item in feed] == ["a0", "b0", "a1", "a2", "b1", "a3"]


def test_at_equal_places_the_domain_named_first_comes_first() -> None:
    feed = blend([ranked("b", 2), ranked("a", 2)])
    assert [item.item_id for item in feed] == ["b0", "a0", "b1", "a1"]


@given(st.lists(st.integers(min_value=0, max_value=20), min_size=1, max_size=6))
def test_every_domain_keeps_its_items_and_their_order(counts: list[int]) -> None:
    domains = [ranked(f"d{n}-", count) for n, count in enumerate(counts)]
    feed = blend(domains)
    for one in domains:
        assert [item for item in feed if item in one.items] == list(one.items)
    assert len(feed) == sum(counts)


def test_what_is_missing_is_told_for_each_domain(recommender: Recommender) -> None:
    short = [f"{letter}00" for letter in "as"]
    feed = recommender.feed({"articles": 2, "videos": 1, "shopping": 2}, history=[], include=short)
    assert feed.reason == (
        "1 of 2 items: 'articles' has 20, 19 filtered by the request; "
        "0 of 1 items: 'videos' has 20, 20 filtered by the request; "
        "1 of 2 items: 'shopping' has 20, 19 filtered by the request"
    )


def test_the_furthest_step_of_a_fallback_is_told(bundle: Bundle) -> None:
    chains = {
        "articles": FallbackChain(("recent",)),
        "videos": FallbackChain(("listed",), ("v00",)),
        "shopping": FallbackChain(("popular",)),
    }
    recommender = Recommender(bundle, fallbacks=chains)
    query = Query(domains={"articles": 1, "videos": 1, "shopping": 1}, history=[])
    [answered] = recommender.answer([query])
    assert isinstance(answered, Answered)
    assert answered.fallbacks == ("recent", "listed", "popular")
    assert answered.recommendations.fallback == "listed"
    known = recommender.feed({"articles": 1, "videos": 1}, user_id="u001")
    assert known.fallback is None


def test_a_feed_holds_what_each_domain_would_recommend(recommender: Recommender) -> None:
    feed = recommender.feed({"articles": 4, "videos": 2}, user_id="u001")
    for domain, k in (("articles", 4), ("videos", 2)):
        alone = recommender.recommend(user_id="u001", domain=domain, k=k)
        own = [item for item in feed.items if item.domain == domain]
        assert [item.item_id for item in own] == [item.item_id for item in alone.items]
        expected = [item.score for item in alone.items]  # a batch may round otherwise
        assert [item.score for item in own] == pytest.approx(expected, abs=1e-5)
    assert len(feed.items) == 6 and feed.reason is None
    assert feed.model_version == recommender.bundle.version


def test_rules_hold_in_every_domain(recommender: Recommender) -> None:
    free = recommender.feed({"articles": 3, "videos": 3}, user_id="u001")
    banned: list[Id] = [free.items[0].item_id, free.items[1].item_id]
    feed = recommender.feed({"articles": 3, "videos": 3}, user_id="u001", exclude=banned)
    assert len(feed.items) == 6 and not {item.item_id for item in feed.items} & set(banned)


def test_the_history_is_read_once(bundle: Bundle) -> None:
    class Counting:
        reads = 0

        def read_many(
            self, user_ids: Sequence[Id], *, limit: int | None = None
        ) -> list[Sequence[Event]]:
            self.reads += 1
            return BundleHistories(bundle).read_many(user_ids, limit=limit)

    histories = Counting()
    Recommender(bundle, histories=histories).feed({"articles": 1, "videos": 1}, user_id="u001")
    assert histories.reads == 1


@pytest.mark.parametrize("domains", [{}, {"articles": 600, "videos": 401}])
def test_a_feed_has_a_size(domains: dict[str, int], recommender: Recommender) -> None:
    with pytest.raises(RequestError, match="domains must be 1 to 1000 items together"):
        recommender.feed(domains, user_id="u001")


def test_an_unknown_domain_is_named(recommender: Recommender) -> None:
    with pytest.raises(UnknownDomainError, match="domain 'boks' is unknown"):
        recommender.feed({"articles": 1, "boks": 1}, user_id="u001")


def test_over_http(client: TestClient, recommender: Recommender) -> None:
    body = {"user_id": "u001", "domains": {"videos": 2, "articles": 3}}
    found = client.post("/v1/recommend", json=body)
    assert found.status_code == 200
    expected = recommender.feed({"videos": 2, "articles": 3}, user_id="u001")
    assert [(one["domain"], one["item_id"]) for one in found.json()["items"]] == [
        (item.domain, item.item_id) for item in expected.items
    ]
    page = client.get("/metrics").text
    assert 'crossfeed_stage_seconds_count{domain="",stage="feed"} 1.0' in page
    for domain in ("videos", "articles"):
        assert f'crossfeed_recommendations_total{{domain="{domain}"' in page


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"domains": {}}, "at least 1"),
        ({"domains": {"videos": 0}}, "domains.videos: must be an integer from 1 to 1000"),
        ({"domains": {"videos": True}}, "integer"),
        ({"domains": {"videos": 2}, "domain": "videos"}, "either domain or domains"),
        ({}, "either domain or domains"),
        ({"domains": {"videos": 2}, "k": 3}, "k and candidates belong to domain"),
        ({"domains": {"videos": 2}, "candidates": ["v01"]}, "k and candidates belong to domain"),
        ({"domains": {"videos": 999, "articles": 2}}, "1000 items together"),
        ({"domains": {"boks": 2}}, "domain 'boks' is unknown"),
    ],
)
def test_a_feed_that_is_not_valid(
    body: dict[str, object], message: str, client: TestClient
) -> None:
    found = client.post("/v1/recommend", json={"user_id": "u001", **body})
    assert found.status_code == 422
    assert message in found.text
