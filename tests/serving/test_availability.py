"""Which items are available: set at run time, kept, and known to every worker at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient
from stores import click, items

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
    assert store.unavailable(since=None) == Unavailable(0, frozenset())
    assert store.set_available(off("b1", 7) + off("b1", domain="books")) == 3
    found = store.unavailable(since=0)
    assert found is not None
    assert found.items == {("videos", "b1"), ("videos", 7), ("books", "b1")}
    assert store.unavailable(since=found.version) is None
    assert store.set_available([ItemFlag("b1", "videos", True), ItemFlag("new", "x", True)]) == 1
    later = store.unavailable(since=found.version)
    assert later is not None and later.items == {("videos", 7), ("books", "b1")}
    assert later.version > found.version


def test_of_two_flags_of_one_item_the_last_counts(store: Store) -> None:
    store.set_available([*off("b1", "b2"), ItemFlag("b1", "videos", True)])
    found = store.unavailable(since=None)
    assert found is not None and found.items == {("videos", "b2")}


@pytest.mark.parametrize("store_url", ["file", "redis"], indirect=True)
def test_flags_survive_the_process_and_are_seen_by_others(store_url: str) -> None:
    one, other = open_store(store_url), open_store(store_url)
    assert other.unavailable(since=None) == Unavailable(0, frozenset())
    one.set_available(off("b1"))
    seen = other.unavailable(since=0)
    assert seen is not None and seen.items == {("videos", "b1")}
    one.close()
    other.close()
    again = open_store(store_url)
    assert again.unavailable(since=None) == seen
    again.close()


def test_a_file_of_the_first_version_is_taken_over(file: Path) -> None:
    store = open_store(f"sqlite:///{file}")
    store.append([click("e1")])
    store.close()
    old = sqlite3.connect(file)
    old.execute("DROP TABLE unavailable")
    old.execute("PRAGMA user_version = 1")
    old.close()
    store = open_store(f"sqlite:///{file}")
    assert items(store) == ["b1"]
    assert store.set_available(off("b1")) == 1
    store.close()


class Failing:
    """A reader of flags that fails from its second call on."""

    def __init__(self) -> None:
        self.calls = 0

    def unavailable(self, *, since: int | None) -> Unavailable | None:
        self.calls += 1
        if self.calls > 1:
            raise HistoryStoreError("planted")
        return Unavailable(1, frozenset({("videos", "v01")}))


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
    assert not stock.unavailable_mask(Unavailable(2, frozenset())).any()


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
        (body("v01", available=False, domain="boks"), "items[0].domain"),
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
