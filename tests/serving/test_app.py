"""The HTTP service: every route, and every guard fed what it forbids."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pytest
from pydantic import BaseModel, field_validator
from starlette.testclient import TestClient
from starlette.types import Message

from crossfeed.bundle import Bundle
from crossfeed.bundle.item_ids import sorted_places
from crossfeed.errors import HistoryStoreError
from crossfeed.serving.histories.history import Event
from crossfeed.serving.histories.sqlite.store import SqliteHistoryStore
from crossfeed.serving.histories.url import open_store
from crossfeed.serving.http.app import create_app
from crossfeed.serving.http.guards.limits import Limits
from crossfeed.serving.http.route import read_body
from crossfeed.serving.operations.monitoring import REQUEST_LOG
from crossfeed.serving.recommend.recommender import Recommender

MOST_BODY_BYTES = Limits().body_bytes


@pytest.fixture
def client(bundle: Bundle, tmp_path: Path) -> Iterator[TestClient]:
    app = create_app(bundle, store=SqliteHistoryStore(tmp_path / "store.sqlite"))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def event(**changed: object) -> dict[str, object]:
    return {
        "event_id": "e1",
        "user_id": "u001",
        "item_id": "a03",
        "domain": "articles",
        "timestamp": 1_700_000_000,
        **changed,
    }


def test_a_known_user_gets_what_the_recommender_says(client: TestClient, bundle: Bundle) -> None:
    expected = Recommender(bundle).recommend(user_id="u001", domain="videos", k=3)
    for response in (
        client.get("/v1/users/u001/recommendations", params={"domain": "videos", "k": 3}),
        client.post("/v1/recommend", json={"user_id": "u001", "domain": "videos", "k": 3}),
    ):
        assert response.status_code == 200
        answer = response.json()
        assert [one["item_id"] for one in answer["items"]] == [
            item.item_id for item in expected.items
        ]
        assert answer["items"][0].keys() == {"item_id", "domain", "score", "source"}
        assert answer["model_version"] == bundle.version
        assert answer["fallback"] is None
        assert answer["took_ms"] > 0


def test_a_history_in_the_request_is_enough(client: TestClient, bundle: Bundle) -> None:
    history = [{"item_id": "v01", "domain": "videos", "timestamp": "2024-01-01T00:00:00Z"}]
    answer = client.post("/v1/recommend", json={"history": history, "domain": "articles"}).json()
    expected = Recommender(bundle).recommend(history=[Event("v01", "videos", 0)], domain="articles")
    assert [one["item_id"] for one in answer["items"]] == [item.item_id for item in expected.items]


def test_a_user_without_history_gets_popular_items_marked_as_such(client: TestClient) -> None:
    answer = client.get("/v1/users/nobody/recommendations?domain=videos").json()
    assert answer["fallback"] == "recent"
    assert {one["source"] for one in answer["items"]} == {"recent"}


def test_the_next_answer_knows_a_new_event(client: TestClient) -> None:
    url = "/v1/users/brand-new/recommendations?domain=articles&k=5"
    before = client.get(url).json()
    first = before["items"][0]["item_id"]
    body = {"events": [event(user_id="brand-new", item_id=first)]}
    assert client.post("/v1/events", json=body).json() == {"accepted": 1, "duplicates": 0}
    after = client.get(url).json()
    assert after["fallback"] is None
    assert first not in {one["item_id"] for one in after["items"]}
    assert client.post("/v1/events", json=body).json() == {"accepted": 0, "duplicates": 1}


def test_what_was_seen_is_never_forgotten_by_trimming(client: TestClient, bundle: Bundle) -> None:
    """More events than the model reads, the one in question the oldest of all."""
    limit = bundle.scorer.config.history_total
    events = [event(event_id="old", user_id="fan", item_id="a03", timestamp=1_000_000_000)]
    events += [
        event(event_id=str(n), user_id="fan", item_id=f"v{n % 20:02}", domain="videos")
        for n in range(limit + 50)
    ]
    assert client.post("/v1/events", json={"events": events}).status_code == 200
    answer = client.get("/v1/users/fan/recommendations?domain=articles&k=20").json()
    assert len(answer["items"]) == 19
    assert "a03" not in {one["item_id"] for one in answer["items"]}
    assert answer["reason"] == "19 of 20 items: 'articles' has 20, 1 of them seen by the user"


def test_an_item_unknown_to_the_model_is_kept_and_ignored(client: TestClient) -> None:
    url = "/v1/users/u001/recommendations?domain=videos"
    before = client.get(url).json()["items"]
    client.post("/v1/events", json={"events": [event(item_id="brand-new")]})
    assert client.get(url).json()["items"] == before
    stored = client.get("/v1/users/u001/history").json()["events"]
    assert "brand-new" in {one["item_id"] for one in stored}


def test_a_history_is_shown_and_forgotten(client: TestClient) -> None:
    shown = client.get("/v1/users/u001/history").json()
    assert shown["user_id"] == "u001"
    assert len(shown["events"]) == 18
    times = [one["timestamp"] for one in shown["events"]]
    assert times == sorted(times)
    assert client.delete("/v1/users/u001").json() == {"user_id": "u001", "forgotten": 18}
    assert client.get("/v1/users/u001/history").json()["events"] == []
    answer = client.get("/v1/users/u001/recommendations?domain=videos").json()
    assert answer["fallback"] == "recent"


def test_domains_model_health_and_metrics(client: TestClient, bundle: Bundle) -> None:
    assert client.get("/v1/domains").json() == [
        {"domain": "articles", "items": 20},
        {"domain": "shopping", "items": 20},
        {"domain": "videos", "items": 20},
    ]
    model = client.get("/v1/model").json()
    assert model["model_version"] == bundle.version
    assert model["card"]["split"] == "last-out"
    assert client.get("/health/live").json() == {"status": "live"}
    assert client.get("/health/ready").json() == {
        "status": "ready",
        "model_version": bundle.version,
        "pinned_version": None,
        "problem": None,
        "history_store": {
            "reachable": True,
            "durable": True,
            "durability": "every event is on disk before it is acknowledged",
        },
    }
    client.get("/v1/users/u001/recommendations?domain=videos")
    client.get("/v1/users/nobody/recommendations?domain=videos")
    page = client.get("/metrics").text
    answered = 'crossfeed_recommendations_total{domain="videos",'
    assert answered + 'fallback="none",user="known"} 1.0' in page
    assert answered + 'fallback="recent",user="cold"} 1.0' in page
    assert 'crossfeed_stage_seconds_count{domain="videos",stage="recommend"} 2.0' in page
    assert 'crossfeed_stage_seconds_count{domain="",stage="store_read"} 2.0' in page
    assert "crossfeed_store_durable 1.0" in page
    assert 'route="/v1/users/{user_id}/recommendations",status="200"} 2.0' in page
    assert f'crossfeed_model{{version="{bundle.version}"}} 1.0' in page


def test_the_log_names_no_user(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=REQUEST_LOG):
        response = client.get("/v1/users/u001/recommendations?domain=videos")
        client.get("/health/live")  # a request is logged once its answer is on its way
    [line, *_] = [record.getMessage() for record in caplog.records if record.name == REQUEST_LOG]
    logged = json.loads(line)
    assert logged["route"] == "/v1/users/{user_id}/recommendations"
    assert logged["status"] == 200
    assert logged["request_id"] == response.headers["x-request-id"]
    assert "u001" not in line


def problem(response: Any) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    assert "Traceback" not in response.text
    return dict(response.json())


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({"user_id": "u001", "domain": "films"}, "domain", "articles, shopping, videos"),
        ({"user_id": "u001", "domain": "videos", "k": 0}, "k", "must be an integer from 1 to 1000"),
        ({"user_id": "u001", "domain": "videos", "k": 1001}, "k", "from 1 to 1000"),
        ({"user_id": "u001", "domain": "videos", "k": "5"}, "k", "must be an integer"),
        ({"user_id": "u001", "domain": "videos", "kk": 5}, "kk", "no field of this name"),
        (
            {"user_id": "u001", "domain": "videos", "exclude_seen": "yes"},
            "exclude_seen",
            "true or false",
        ),
        ({"user_id": True, "domain": "videos"}, "user_id", "a string of 1 to 1024"),
        ({"user_id": "u001", "domain": "videos", "exclude": [None]}, "exclude[0]", "a string of"),
        (
            {
                "history": [{"item_id": "a", "domain": "films", "timestamp": 1_700_000_000}],
                "domain": "videos",
            },
            "history[0].domain",
            "articles, shopping, videos",
        ),
        ({"user_id": "u001"}, "body", "either domain or domains"),
        ({"domain": "videos"}, "body", "either user_id or history"),
        ({"user_id": "u001", "history": [], "domain": "videos"}, "body", "and not both"),
        (
            {"user_id": 1.5, "domain": "videos"},
            "user_id",
            "a string of 1 to 1024 characters or an integer",
        ),
        (
            {"history": [{"item_id": "a", "domain": "videos"}], "domain": "videos"},
            "history[0].timestamp",
            "required",
        ),
        (
            {
                "history": [{"item_id": "a", "domain": "videos", "timestamp": "soon"}],
                "domain": "videos",
            },
            "history[0].timestamp",
            "ISO 8601",
        ),
    ],
)
def test_a_body_that_is_not_valid_names_field_value_and_what_is_allowed(
    body: dict[str, object], field: str, said: str, client: TestClient
) -> None:
    response = client.post("/v1/recommend", json=body)
    assert response.status_code == 422
    found = problem(response)
    assert found["field"] == field
    assert said in found["allowed"]
    assert found["detail"]


@pytest.mark.parametrize(
    ("changed", "field", "said"),
    [
        ({"domain": ""}, "events[0].domain", "at least 1 character"),
        ({"timestamp": time.time() + 100_000}, "events[0].timestamp", "between 1990 and a day"),
        ({"timestamp": 1000}, "events[0].timestamp", "between 1990 and a day"),
        ({"timestamp": None}, "events[0].timestamp", "seconds or milliseconds"),
        ({"event_id": ""}, "events[0].event_id", "at least 1 character"),
        ({"user_id": None}, "events[0].user_id", "a string of 1 to 1024"),
        ({"item_id": "x" * 2000}, "events[0].item_id", "a string of 1 to 1024"),
        ({"timestamp": True}, "events[0].timestamp", "seconds or milliseconds"),
        ({"timestamp": 10**400}, "events[0].timestamp", "finite"),
        ({"timestamp": 1_700_000_000_000_000}, "events[0].timestamp", "these are microseconds"),
        ({"timestamp": 1_700_000_000 * 10**9}, "events[0].timestamp", "these are nanoseconds"),
        ({"timestamp": "0001-01-01T00:00:00+14:00"}, "events[0].timestamp", "between 1990"),
        ({"timestamp": "9999-12-31T23:59:59-14:00"}, "events[0].timestamp", "between 1990"),
        ({"event_id": 7}, "events[0].event_id", "must be text"),
        ({"user_id": 2**63}, "events[0].user_id", "an integer of 64 bits"),
        ({"extra": 1}, "events[0].extra", "no field of this name"),
    ],
)
def test_an_event_that_is_not_valid_is_refused_and_none_is_stored(
    changed: dict[str, object], field: str, said: str, client: TestClient
) -> None:
    events = [event(event_id="good", user_id="fresh"), event(**changed)]
    response = client.post("/v1/events", json={"events": events[::-1]})
    assert response.status_code == 422
    found = problem(response)
    assert found["field"] == field
    assert said in found["allowed"]
    assert client.get("/v1/users/fresh/history").json()["events"] == []


def test_a_day_ahead_of_the_clock_is_accepted(client: TestClient) -> None:
    body = {"events": [event(timestamp=time.time() + 80_000)]}
    assert client.post("/v1/events", json=body).status_code == 200


@pytest.mark.parametrize("events", [[], [event(event_id=str(n)) for n in range(1001)]])
def test_the_number_of_events_is_limited(events: list[object], client: TestClient) -> None:
    assert client.post("/v1/events", json={"events": events}).status_code == 422


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"domain": "videos", "user_id": NaN}',
        b'{"events": [{"timestamp": Infinity}]}',
        b'{"domain": "videos", "user_id": 1e999}',
        b'{"domain": "videos", "user_id": 1' + b"0" * 5000 + b"}",
        b'{"domain": "videos", "user_id": "\\ud800"}',
        b'{"domain": "\\ud800", "user_id": "ann"}',
        b'{"\\ud800": 1}',
        b'{"events": [{"event_id": "\\udfff"}]}',
        b"null",
        b"[]",
    ],
)
@pytest.mark.parametrize("route", ["/v1/recommend", "/v1/events"])
def test_a_strange_body_is_refused(content: bytes, route: str, client: TestClient) -> None:
    response = client.post(route, content=content, headers={"content-type": "application/json"})
    assert 400 <= response.status_code < 500
    problem(response)


def test_a_body_that_is_no_json_is_shown_as_the_text_that_it_is(client: TestClient) -> None:
    headers = {"content-type": "application/json"}
    response = client.post("/v1/recommend", content=b"{bad", headers=headers)
    assert problem(response)["value"] == "{bad"


@pytest.mark.parametrize(
    "content",
    [b" " * (MOST_BODY_BYTES + 1), [b" " * 1000] * (MOST_BODY_BYTES // 1000 + 1)],
    ids=["at once", "in pieces"],
)
def test_a_large_body_is_refused_before_it_is_read(
    content: bytes | list[bytes], client: TestClient
) -> None:
    sent = content if isinstance(content, bytes) else iter(content)
    response = client.post("/v1/events", content=sent)
    assert response.status_code == 413
    assert problem(response)["detail"] == f"at most {MOST_BODY_BYTES} bytes are read"


def test_all_problems_of_a_body_are_named_at_once(client: TestClient) -> None:
    body = {"user_id": 1.5, "domain": 7, "k": "many", "kk": 1}
    found = problem(client.post("/v1/recommend", json=body))
    for name in ("user_id", "domain", "k:", "kk"):
        assert name in found["detail"]


@pytest.mark.parametrize(
    ("route", "name", "body"),
    [
        ("/v1/recommend", "history", {"domain": "videos"}),
        ("/v1/recommend", "exclude", {"user_id": "u001", "domain": "videos"}),
        ("/v1/events", "events", {}),
    ],
)
def test_of_a_list_the_first_problem_is_named(
    route: str, name: str, body: dict[str, object], client: TestClient
) -> None:
    found = problem(client.post(route, json={**body, name: [None, None]}))
    assert found["field"].startswith(f"{name}[0]")
    assert f"{name}[1]" not in found["detail"]


def test_a_feed_of_domains_without_number_is_refused_by_their_number(client: TestClient) -> None:
    domains = {f"d{number}": "many" for number in range(50_000)}
    response = client.post("/v1/recommend", json={"user_id": "u001", "domains": domains})
    assert response.status_code == 422
    assert "must name at most 100 domains; it names 50,000" in response.text
    assert len(response.content) < 2_000


@pytest.mark.parametrize(
    ("method", "route"),
    [("POST", "/v1/recommend"), ("POST", "/v1/events"), ("PUT", "/v1/items/availability")],
)
def test_problems_without_number_are_counted_and_not_named(
    method: str, route: str, client: TestClient
) -> None:
    response = client.request(method, route, json={f"k{number}": 1 for number in range(1000)})
    assert response.status_code == 422
    found = problem(response)
    assert found["detail"].startswith("the body has 1,00")
    assert found["detail"].endswith(" errors, too many to name them")
    assert found["field"] == "body"


def test_a_large_body_is_checked_beside_the_event_loop() -> None:
    threads = []

    class Body(BaseModel):
        text: str

        @field_validator("text")
        @classmethod
        def _note(cls, text: str) -> str:
            threads.append(threading.get_ident())
            return text

    async def read(letters: int) -> None:
        content = json.dumps({"text": "x" * letters}).encode()

        async def receive() -> Message:
            return {"type": "http.request", "body": content}

        scope = {"headers": [(b"content-type", b"application/json")]}
        await read_body(scope, receive, Body)

    for letters in (1000, 100_000):
        asyncio.run(read(letters))
    small, large = threads
    assert small == threading.get_ident() != large


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "domain"),
        ("domain=", "domain"),
        ("domain=films", "domain"),
        ("domain=videos&k=0", "k"),
        ("domain=videos&k=NaN", "k"),
        ("domain=videos&kk=5", "kk"),
    ],
)
def test_a_query_that_is_not_valid_names_its_field(
    query: str, field: str, client: TestClient
) -> None:
    response = client.get(f"/v1/users/u001/recommendations?{query}")
    assert response.status_code == 422
    found = problem(response)
    assert found["field"] == field
    assert ("value" in found) == (query != "")  # of what is missing there is none


@pytest.mark.parametrize("route", ["/recommendations?domain=videos", "/history"])
def test_a_user_id_in_a_url_is_checked(route: str, client: TestClient) -> None:
    for user_id in ("", "x" * 1025):
        response = client.get(f"/v1/users/{user_id}{route}")
        assert response.status_code == 422
        assert problem(response)["field"] == "user_id"


@pytest.mark.parametrize(
    "user_id", ["a/b", "7", "007", "a b?c=d#e", "ユーザー", "x/history", "50%", "a\n/b\n"]
)
def test_any_id_can_be_in_a_url(user_id: str, client: TestClient) -> None:
    url = f"/v1/users/{quote(user_id, safe='')}"
    body = {"events": [event(user_id=user_id)]}
    assert client.post("/v1/events", json=body).status_code == 200
    assert client.get(f"{url}/history").json()["user_id"] == user_id
    assert len(client.get(f"{url}/history").json()["events"]) == 1
    answer = client.get(f"{url}/recommendations?domain=articles&k=20").json()
    assert "a03" not in {one["item_id"] for one in answer["items"]}
    assert client.delete(url).json() == {"user_id": user_id, "forgotten": 1}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("DELETE", "/v1/users/u001/history", 405),
        ("DELETE", "/v1/users/u001/recommendations", 405),
        ("DELETE", "/v1/users/a/b", 404),
        ("GET", "/v1/users/a/b/history", 404),
    ],
)
def test_a_slash_in_a_url_is_never_a_part_of_an_id(
    method: str, path: str, status: int, client: TestClient
) -> None:
    for user_id in ("u001/history", "u001/recommendations", "a/b"):
        sent = {"events": [event(event_id=user_id, user_id=user_id)]}
        assert client.post("/v1/events", json=sent).json()["accepted"] == 1
    refused = client.request(method, path)
    assert refused.status_code == status
    problem(refused)
    for user_id in ("u001/history", "u001/recommendations", "a/b"):
        shown = client.get(f"/v1/users/{quote(user_id, safe='')}/history").json()
        assert len(shown["events"]) == 1


def test_a_literal_part_of_a_path_may_be_encoded(client: TestClient) -> None:
    assert client.get("/v1/%64omains").status_code == 200


@pytest.mark.parametrize("path", ["/v1/domains/", "/v1/users/u001/recommendations/?domain=videos"])
def test_no_path_redirects_to_another_scheme(path: str, client: TestClient) -> None:
    headers = {"x-forwarded-proto": "https", "host": "shop.example"}
    found = client.get(path, headers=headers, follow_redirects=False)
    assert found.status_code == 404 and "location" not in found.headers


def test_a_history_is_read_in_pages(client: TestClient) -> None:
    times = [1_700_000_000 + n for n in range(7)]
    sent = [event(event_id=f"p{t}", user_id="pages", timestamp=t) for t in times]
    assert client.post("/v1/events", json={"events": sent}).json()["accepted"] == 7
    pages, after = [], 0
    while after is not None:
        url = f"/v1/users/pages/history?limit=3&after={after}"
        page = client.get(url).json()
        pages.append([one["timestamp"] // 1000 for one in page["events"]])
        after = page["after"]
    assert pages == [times[4:], times[1:4], times[:1]]
    whole = client.get("/v1/users/pages/history").json()
    assert len(whole["events"]) == 7 and whole["after"] is None
    for query, said in (("limit=0", "at least 1"), ("after=x", "an integer"), ("page=2", "name")):
        refused = client.get(f"/v1/users/pages/history?{query}")
        assert refused.status_code == 422 and said in problem(refused)["allowed"]


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "the body must have content-type: application/json; it has none"),
        ({"content-type": "text/plain"}, "application/json; it says 'text/plain'"),
        ({"content-type": "application/x-www-form-urlencoded"}, "must have content-type"),
        (
            {"content-type": "application/json", "content-encoding": "gzip"},
            "the body is compressed (gzip); send it uncompressed",
        ),
    ],
)
@pytest.mark.parametrize("route", ["/v1/recommend", "/v1/events"])
def test_a_body_that_is_no_plain_json_is_refused_with_what_to_do(
    headers: dict[str, str], said: str, route: str, client: TestClient
) -> None:
    response = client.post(route, content=b'{"user_id": "u001"}', headers=headers)
    assert response.status_code == 415
    assert said in problem(response)["detail"]


def test_ids_are_restored_to_a_log_of_integers(bundle: Bundle) -> None:
    facts = {**bundle.about, "user_id_type": "int64", "files": {}}
    item_ids = pa.array(range(len(bundle.item_ids)), pa.int64())
    by_id = sorted_places(item_ids, bundle.catalogue)
    integers = dataclasses.replace(bundle, about=facts, item_ids=item_ids, by_id=by_id)
    with TestClient(create_app(integers, store=open_store("sqlite://"))) as client:
        events = [event(event_id=f"e{id_}", user_id=id_, item_id=id_) for id_ in ("3", 4)]
        assert client.post("/v1/events", json={"events": events}).status_code == 200
        history = client.get("/v1/users/3/history").json()
        assert (history["user_id"], history["events"][0]["item_id"]) == (3, 3)
        answer = client.get("/v1/users/4/recommendations?domain=articles&k=20").json()
        assert {one["item_id"] for one in answer["items"]} == set(range(20)) - {4}
        for wrong in ("ann", "03", "3.0", str(2**63)):
            response = client.post("/v1/events", json={"events": [event(user_id=wrong)]})
            assert response.status_code == 422
            assert problem(response)["field"] == "events[0].user_id"
            assert "an integer of 64 bits" in problem(response)["allowed"]


@pytest.mark.parametrize(
    "timestamp",
    [
        *(1_700_000_000, 1_700_000_000_000, 1_700_000_000.0),
        *("2023-11-14T22:13:20Z", "2023-11-14T22:13:20", "2023-11-15T00:13:20+02:00"),
    ],
)
def test_times_of_any_form_come_back_in_milliseconds(timestamp: object, client: TestClient) -> None:
    client.post("/v1/events", json={"events": [event(user_id="timed", timestamp=timestamp)]})
    [stored] = client.get("/v1/users/timed/history").json()["events"]
    assert stored["timestamp"] == 1_700_000_000_000


def test_what_fails_inside_is_told_to_the_log_and_not_outside(
    client: TestClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("u001")

    monkeypatch.setattr(Recommender, "answer", fail)
    with caplog.at_level(logging.INFO, logger=REQUEST_LOG):
        response = client.get("/v1/users/u001/recommendations?domain=videos")
    assert response.status_code == 500
    assert problem(response)["detail"] == "the service's log tells more"
    logged = [json.loads(record.getMessage()) for record in caplog.records]
    failure, request = [line for line in logged if "request_id" in line]
    assert failure["error"] == "KeyError"
    assert "fail" in failure["at"][-1]
    assert request["status"] == 500
    assert failure["request_id"] == request["request_id"] == response.headers["x-request-id"]
    assert "u001" not in caplog.text
    page = client.get("/metrics").text
    assert 'route="/v1/users/{user_id}/recommendations",status="500"} 1.0' in page


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/v1/events", 405), ("PUT", "/v1/users/u001/history", 405)],
)
def test_other_paths_are_problems_too(
    method: str, path: str, status: int, client: TestClient
) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    problem(response)


def test_a_store_that_cannot_be_filled_is_filled_later(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossfeed.serving.engine.in_service._POLL_SECONDS", 0.01)
    store = SqliteHistoryStore(None)

    def fail(*_: object, **__: object) -> None:
        raise HistoryStoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store.bulk, "fill", fail)
        with TestClient(create_app(bundle, store=store)) as client:
            assert client.get("/v1/users/u001/history").json()["events"] == []
            assert 'operation="fill"' in client.get("/metrics").text
            patch.undo()
            while not client.get("/v1/users/u001/history").json()["events"]:
                time.sleep(0.01)
    with pytest.raises(HistoryStoreError, match="is closed"):
        store.ping()


def test_an_event_of_a_domain_that_the_model_does_not_know_is_kept(client: TestClient) -> None:
    asked = "/v1/users/u001/recommendations?domain=videos&k=5"
    before = client.get(asked).json()["items"]
    new = {"event_id": "n1", "user_id": "u001", "item_id": "a03", "domain": "films"}
    sent = client.post("/v1/events", json={"events": [{**new, "timestamp": 1_700_000_000}]})
    assert sent.json() == {"accepted": 1, "duplicates": 0}
    assert client.get("/v1/users/u001/history").json()["events"][-1]["domain"] == "films"
    assert client.get(asked).json()["items"] == before


def test_the_store_is_asked_for_its_state_once_a_second(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossfeed.serving.http.app._CHECK_SECONDS", 60)
    store, pings = SqliteHistoryStore(None), []
    monkeypatch.setattr(store, "ping", lambda: pings.append(1))
    with TestClient(create_app(bundle, store=store)) as client:
        for _ in range(20):
            assert client.get("/health/ready").json()["history_store"]["reachable"]
    assert len(pings) == 1
