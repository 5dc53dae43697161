"""Which items are available: set at run time, kept, and known to every worker at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from crossfeed.bundle import Bundle
from crossfeed.errors import HistoryStoreError
from crossfeed.serving.histories.availability import Availability, ItemFlag, Stock, Unavailable
from crossfeed.serving.histories.history import HistoryStore as Store
from crossfeed.serving.histories.sqlite.store import SqliteHistoryStore
from crossfeed.serving.histories.url import open_store
from crossfeed.serving.http.app import create_app
from crossfeed.serving.http.guards.security import ApiKey, Right
from crossfeed.serving.ids import Id
from crossfeed.serving.recommend.recommender import Recommender

KNOWN_USER = "/v1/users/u001/recommendations?domain=videos&k=20"


def off(*ids: Id, domain: str = "videos") -> list[ItemFlag]:
    return [ItemFlag(item_id, domain, False) for item_id in ids]


def body(*ids: str, available: bool, domain: str = "videos") -> dict[str, object]:
    flags = [{"item_id": one, "domain": domain, "available": available} for one in ids]
    return {"items": flags}


def test_flags_are_kept_and_counted(store: Store) -> None:
    assert store.flags_since(0) == ([], 0)
    assert store.set_available(off("b1", 7) + off("b1", domain="books")) == 3
    found, sequence = store.flags_since(0)
    assert {(flag.domain, flag.item_id) for flag in found} == {
        ("videos", "b1"),
        ("videos", 7),
        ("books", "b1"),
    }
    assert not any(flag.available for flag in found)
    assert store.flags_since(sequence) == ([], sequence)
    assert store.set_available([ItemFlag("b1", "videos", True), ItemFlag("new", "x", True)]) == 1
    assert store.set_available([ItemFlag("new", "x", True)]) == 0
    changed, later = store.flags_since(sequence)
    assert later > sequence
    assert changed == [ItemFlag("b1", "videos", True)]
    assert {flag.item_id for flag in store.flags_since(0)[0]} == {7, "b1"}


def test_a_reader_asks_for_changes_alone(store: Store) -> None:
    """However many flags there are, one change is one row."""
    store.set_available(off(*[f"v{number}" for number in range(2_000)]))
    reader = Availability(store)
    assert len(reader.now().items) == 2_000
    _, sequence = store.flags_since(0)
    store.set_available([*off("more"), ItemFlag("v7", "videos", True)])
    assert len(store.flags_since(sequence)[0]) == 2
    items_now = reader.now().items
    assert len(items_now) == 2_000
    assert ("videos", "more") in items_now and ("videos", "v7") not in items_now


def test_of_two_flags_of_one_item_the_last_counts(store: Store) -> None:
    store.set_available([*off("b1", "b2"), ItemFlag("b1", "videos", True)])
    assert store.flags_since(0)[0] == off("b2")


@pytest.mark.parametrize("store_url", ["file", "redis"], indirect=True)
def test_flags_survive_the_process_and_are_seen_by_others(store_url: str) -> None:
    one, other = open_store(store_url), open_store(store_url)
    assert other.flags_since(0) == ([], 0)
    one.set_available(off("b1"))
    assert other.flags_since(0) == (off("b1"), 1)
    one.close()
    other.close()
    again = open_store(store_url)
    assert again.flags_since(0) == (off("b1"), 1)
    again.close()


def test_a_store_that_begins_anew_is_read_anew() -> None:
    old, fresh = SqliteHistoryStore(None), SqliteHistoryStore(None)
    for number in range(3):
        old.set_available(off(f"v{number}"))
    fresh.set_available(off("v9"))
    reader = Availability(old)
    assert len(reader.now().items) == 3
    reader._reader = fresh
    assert reader.now().items == {("videos", "v9")}
    old.close()
    fresh.close()


class Failing:
    """A reader of flags that fails from its second call on."""

    def __init__(self) -> None:
        self.calls = 0

    def flags_since(self, sequence: int) -> tuple[list[ItemFlag], int]:
        self.calls += 1
        if self.calls > 1:
            raise HistoryStoreError("planted")
        return off("v01"), 1


def test_while_the_store_does_not_answer_the_last_known_flags_hold() -> None:
    reader = Failing()
    flags = Availability(reader)
    first = flags.now()
    assert flags.now() is first and first.items == {("videos", "v01")}
    assert reader.calls == 2


def test_the_mask_is_that_of_the_bundle_and_made_once_per_change(bundle: Bundle) -> None:
    stock = Stock(bundle)
    flags = Unavailable(1, frozenset({("videos", "v03"), ("videos", "new"), ("gone", "v04")}))
    mask = stock.unavailable_mask(flags)
    assert np.flatnonzero(mask).tolist() == [bundle.ids.index("v03", "videos")]
    assert stock.unavailable_mask(flags) is mask
    other = Unavailable(2, frozenset({("videos", "v04")}))
    assert np.flatnonzero(stock.unavailable_mask(other)).tolist() == [
        bundle.ids.index("v04", "videos")
    ]
    assert np.flatnonzero(mask).tolist() == [bundle.ids.index("v03", "videos")]
    assert not stock.unavailable_mask(Unavailable(3, frozenset())).any()


def test_what_is_not_available_is_left_out_before_the_cut(bundle: Bundle) -> None:
    store = SqliteHistoryStore(None)
    recommender = Recommender(bundle, availability=Availability(store))
    whole = recommender.recommend(user_id="u001", domain="videos", k=8, exclude_seen=False)
    best, *rest = [item.item_id for item in whole.items]
    store.set_available(off(best))
    fewer = recommender.recommend(user_id="u001", domain="videos", k=7, exclude_seen=False)
    assert [item.item_id for item in fewer.items] == rest
    similar = recommender.similar_items(rest[0], domain="videos", k=20)
    assert best not in {item.item_id for item in similar.items}
    assert similar.reason == (
        "18 of 20 items: 'videos' has 20, 1 not available, 1 filtered by the request"
    )
    store.close()


@pytest.fixture
def client(bundle: Bundle, tmp_path: Path) -> Iterator[TestClient]:
    app = create_app(bundle, store=SqliteHistoryStore(tmp_path / "store.sqlite"))
    with TestClient(app) as client:
        yield client


def test_the_next_answer_knows_a_flag_also_through_another_worker(
    bundle: Bundle, tmp_path: Path
) -> None:
    file = tmp_path / "store.sqlite"
    one, other = (create_app(bundle, store=SqliteHistoryStore(file)) for _ in range(2))
    with TestClient(one) as writer, TestClient(other) as reader:
        before = reader.get(KNOWN_USER).json()
        first = before["items"][0]["item_id"]
        seen = 20 - len(before["items"])
        answer = writer.put("/v1/items/availability", json=body(first, "new", available=False))
        assert answer.json() == {"changed": 2}
        after = reader.get(KNOWN_USER).json()
        assert after["items"] == before["items"][1:]
        assert after["reason"] == (
            f"{19 - seen} of 20 items: 'videos' has 20, {seen} of them seen by the user, "
            "1 not available"
        )
        popular = reader.get("/v1/users/nobody/recommendations?domain=videos&k=20").json()
        assert first not in {item["item_id"] for item in popular["items"]}
        writer.put("/v1/items/availability", json=body(first, available=True))
        assert reader.get(KNOWN_USER).json()["items"] == before["items"]


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        (body("v01", available=False, domain=""), "items[0].domain"),
        ({"items": []}, "items"),
        ({"items": [{"item_id": "v01", "domain": "videos"}]}, "items[0].available"),
        (
            {"items": [{"item_id": "v01", "domain": "videos", "available": "no"}]},
            "items[0].available",
        ),
    ],
)
def test_a_flag_that_is_not_valid_is_refused(
    client: TestClient, sent: dict[str, object], field: str
) -> None:
    refused = client.put("/v1/items/availability", json=sent)
    assert refused.status_code == 422
    assert refused.json()["field"] == field


def test_a_flag_of_a_domain_that_the_model_does_not_know_is_kept(bundle: Bundle) -> None:
    """The next model may know it, and be in service in another worker already."""
    store = SqliteHistoryStore(None)
    with TestClient(create_app(bundle, store=store)) as client:
        sent = client.put("/v1/items/availability", json=body("t1", available=False, domain="toys"))
        assert sent.json() == {"changed": 1}
        assert client.get(KNOWN_USER).status_code == 200
        assert store.flags_since(0)[0] == [ItemFlag("t1", "toys", False)]


def test_flags_need_the_admin_scope(bundle: Bundle, tmp_path: Path) -> None:
    keys = [
        ApiKey("collector-0123456789", rights=frozenset({Right.READ, Right.WRITE})),
        ApiKey("operator-0123456789", rights=frozenset({Right.ADMIN})),
    ]
    app = create_app(bundle, store=SqliteHistoryStore(tmp_path / "store.sqlite"), keys=keys)
    with TestClient(app) as client:
        statuses = [
            client.put(
                "/v1/items/availability",
                json=body("v01", available=False),
                headers={"X-API-Key": key},
            ).status_code
            for key in ("", "collector-0123456789", "operator-0123456789")
        ]
    assert statuses == [401, 403, 200]
