"""Where the service is reached from: hosts, other sites' pages, a proxy in front."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
from starlette.testclient import TestClient

from crossfeed.bundle import Bundle
from crossfeed.errors import ConfigError
from crossfeed.serving.histories.url import open_store
from crossfeed.serving.http.app import create_app
from crossfeed.serving.http.guards.access import Access, local_access
from crossfeed.serving.http.guards.security import ApiKey

KEY = "a-key-of-enough-characters"
EVENT = {
    "event_id": "e1",
    "user_id": "ann",
    "item_id": "a03",
    "domain": "articles",
    "timestamp": 1_700_000_000,
}

Serve = Callable[..., TestClient]


@pytest.fixture
def serve(bundle: Bundle) -> Iterator[Serve]:
    clients: list[TestClient] = []

    def start(access: Access, keys: Sequence[ApiKey] = ()) -> TestClient:
        app = create_app(bundle, store=open_store("sqlite://"), access=access, keys=keys)
        clients.append(TestClient(app, base_url="http://localhost:8000").__enter__())
        return clients[-1]

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:80", "[::1]:8000"])
def test_without_keys_this_machine_answers_to_its_own_names(host: str, serve: Serve) -> None:
    client = serve(local_access(Access(), host="127.0.0.1"))
    assert client.get("/v1/domains", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8000", ""]
)
def test_without_keys_it_answers_to_no_other(host: str, serve: Serve) -> None:
    client = serve(local_access(Access(), host="127.0.0.1"))
    refused = client.get("/v1/users/u001/history", headers={"host": host})
    assert refused.status_code == 421
    assert refused.headers["content-type"] == "application/problem+json"
    assert "--allow-host" in refused.json()["detail"]
    assert "a03" not in refused.text


def test_named_hosts_are_answered_and_no_others(serve: Serve) -> None:
    access = local_access(Access(hosts=("shop.example", "*.shop.example")), host="127.0.0.1")
    client = serve(access)
    for host, status in (
        ("shop.example", 200),
        ("SHOP.example:443", 200),
        ("eu.shop.example", 200),
        ("myshop.example", 421),
        ("localhost", 421),
    ):
        assert client.get("/v1/domains", headers={"host": host}).status_code == status, host
    for path in ("/health/live", "/health/ready"):  # a platform asks by address
        assert client.get(path, headers={"host": "10.0.0.7:8000"}).status_code == 200


FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:9000"])
def test_another_sites_page_changes_nothing_without_keys(origin: str, serve: Serve) -> None:
    client = serve(Access())
    for method, path in (
        ("POST", "/v1/model/pin"),
        ("POST", "/v1/events"),
        ("DELETE", "/v1/users/u001"),
        ("PUT", "/v1/items/availability"),
    ):
        refused = client.request(method, path, headers={"origin": origin, **FORM})
        assert refused.status_code == 403
        assert "--allow-origin" in refused.json()["detail"]
    assert len(client.get("/v1/users/u001/history").json()["events"]) == 18
    own = {"origin": "http://localhost:8000"}
    sent = client.post("/v1/events", json={"events": [EVENT]}, headers=own)
    assert sent.json() == {"accepted": 1, "duplicates": 0}


def test_pages_of_sites_that_may_ask_are_told_so(serve: Serve) -> None:
    access = Access(origins=("https://shop.example",))
    for client, key in (
        (serve(access), {}),
        (serve(access, [ApiKey(KEY)]), {"x-api-key": KEY}),
    ):
        origin = {"origin": "https://shop.example"}
        asked = {
            **origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type,x-api-key",
        }
        before = client.options("/v1/events", headers=asked)
        assert before.status_code == 200
        assert before.headers["access-control-allow-origin"] == "https://shop.example"
        stored = client.post("/v1/events", json={"events": [EVENT]}, headers={**origin, **key})
        assert stored.json() == {"accepted": 1, "duplicates": 0}
        assert stored.headers["access-control-allow-origin"] == "https://shop.example"
        other = client.get("/v1/domains", headers={"origin": "https://evil.example", **key})
        assert "access-control-allow-origin" not in other.headers
    wrong = client.get("/v1/domains", headers=origin)  # the page may read what it did wrong
    assert wrong.status_code == 401 and "access-control-allow-origin" in wrong.headers


@pytest.mark.parametrize("prefix", ["", "/reco"])
def test_below_a_root_path_everything_is_as_without(prefix: str, serve: Serve) -> None:
    """Proxies take the prefix off or leave it."""
    client = serve(Access(root_path="/reco"), [ApiKey(KEY)])
    assert client.get(f"{prefix}/health/live").status_code == 200
    assert client.get(f"{prefix}/v1/users/u001/history").status_code == 401
    key = {"x-api-key": KEY}
    assert len(client.get(f"{prefix}/v1/users/u001/history", headers=key).json()["events"]) == 18
    sent = {**EVENT, "user_id": "a/b"}
    assert client.post(f"{prefix}/v1/events", json={"events": [sent]}, headers=key).is_success
    shown = client.get(f"{prefix}/v1/users/a%2Fb/history", headers=key).json()
    assert shown["user_id"] == "a/b" and len(shown["events"]) == 1
    assert client.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": "/reco"}]
    home = client.get(f"{prefix}/", follow_redirects=False)
    assert home.headers["location"] == "/reco/docs"


@pytest.mark.parametrize(
    ("access", "message"),
    [
        ({"origins": ("shop.example",)}, "'shop.example' is not an origin\nhint: write it as http"),
        ({"origins": ("https://shop.example/page",)}, "is not an origin"),
        ({"root_path": "reco"}, "must begin with a slash"),
        ({"root_path": "/reco/"}, "and not end with one"),
    ],
)
def test_settings_of_another_form_are_refused(access: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Access(**access)  # type: ignore[arg-type]


def test_refused_requests_count_for_their_route_and_for_no_stage(serve: Serve) -> None:
    client = serve(Access(hosts=("localhost",)), [ApiKey(KEY)])
    client.get("/v1/users/u001/history")
    client.get("/v1/domains", headers={"host": "evil.example"})
    key = {"x-api-key": KEY}
    client.post("/v1/events", content=b"x" * 1_048_577, headers=key)
    client.post("/v1/events", content=b"x", headers=key)
    for body in ({"user_id": "u001", "domain": "films"}, {"user_id": "u001", "domains": {}}):
        client.post("/v1/recommend", json=body, headers=key)
    page = client.get("/metrics", headers=key).text
    for route, status in (
        ("/v1/users/{user_id}/history", 401),
        ("/v1/domains", 421),
        ("/v1/events", 413),
        ("/v1/events", 415),
    ):
        counted = f'crossfeed_requests_total{{route="{route}",status="{status}"}} 1.0'
        assert counted in page
    assert 'crossfeed_requests_total{route="/v1/recommend",status="422"} 2.0' in page
    assert 'route="unknown"' not in page
    for stage in ("recommend", "feed", "encode", "retrieve", "rank"):
        assert f'stage="{stage}"' not in page
