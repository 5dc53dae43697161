"""Who may ask: keys, hosts and ports."""

from __future__ import annotations

import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from typer.testing import CliRunner

from crossfeed.bundle import Bundle
from crossfeed.cli import app as command_line
from crossfeed.errors import ConfigError, HistoryStoreError
from crossfeed.serving.histories.sqlite.store import SqliteHistoryStore
from crossfeed.serving.histories.url import default_store_url, open_store
from crossfeed.serving.http.app import create_app
from crossfeed.serving.http.guards.limits import Limits
from crossfeed.serving.http.guards.security import (
    KEYS_VARIABLE,
    ApiKey,
    Right,
    keys_from_environment,
    require_keys_beyond,
)
from crossfeed.serving.process.server import serve

KEY = "a-key-of-enough-characters"
KEYS = (ApiKey("another-key-entirely"), ApiKey(KEY))


def test_keys_are_asked_for_everywhere_but_at_health(bundle: Bundle, tmp_path: Path) -> None:
    store = SqliteHistoryStore(tmp_path / "store.sqlite")
    with TestClient(create_app(bundle, store=store, keys=KEYS)) as client:
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 200
        for path in ("/v1/domains", "/v1/users/u001/history", "/metrics"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"x-api-key": KEY[:-1]}).status_code == 401
            assert client.get(path, headers={"x-api-key": KEY}).status_code == 200
            bearer = {"authorization": f"Bearer {KEY}"}
            assert client.get(path, headers=bearer).status_code == 200


@pytest.fixture
def guarded(bundle: Bundle) -> Iterator[TestClient]:
    app = create_app(bundle, store=open_store("sqlite://"), keys=KEYS)
    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", "/docs/"), ("GET", "/nowhere"), ("GET", "/health")),
        *(("POST", "/v1/recommend"), ("POST", "/v1/events"), ("DELETE", "/v1/users/u001")),
        ("GET", "/health/live/../../v1/domains"),
    ],
)
def test_without_a_key_nothing_is_told(method: str, path: str, guarded: TestClient) -> None:
    response = guarded.request(method, path, content=b"{" * 2 * Limits().body_bytes)
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["www-authenticate"] == "Bearer"
    assert "X-API-Key" in response.json()["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": ""},
        {"x-api-key": KEY[:-1]},
        {"x-api-key": KEY + "x"},
        {"x-api-key": KEY.upper()},
        {"x-api-key": f"another-key-entirely,{KEY}"},
        {"x-api-key": b"\xff\xfe"},
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
    ],
)
def test_another_key_is_refused(headers: dict[str, str], guarded: TestClient) -> None:
    assert guarded.get("/v1/domains", headers=headers).status_code == 401


@pytest.mark.parametrize(("key", "codes"), [(None, [1008]), (KEY, [1000])])
def test_an_upgrade_to_a_websocket_needs_a_key_too(
    key: str | None, codes: list[int], guarded: TestClient
) -> None:
    """With a key it is refused as well, because there is no such route."""
    headers = {} if key is None else {"x-api-key": key}
    with pytest.raises(WebSocketDisconnect) as caught:
        with guarded.websocket_connect("/v1/recommend", headers=headers):
            pass
    assert [caught.value.code] == codes


def test_what_describes_the_service_needs_no_key_and_no_other_site(guarded: TestClient) -> None:
    home = guarded.get("/", follow_redirects=False)
    assert (home.status_code, home.headers["location"]) == (307, "/docs")
    page = guarded.get("/docs")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert not re.findall(r"(?:https?:)?//\w+[.\w]*/", page.text)  # whatever it loads is its own
    assert "default-src 'none'" in page.headers["content-security-policy"]
    document = guarded.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["ApiKey"]["name"] == "X-API-Key"


READER, TELLER, WRITER, ADMIN = (
    "reads-and-nothing-else",
    "tells-histories-alone",
    "writes-and-nothing-else",
    "admin-and-nothing-else",
)
EXPIRED, VALID = "a-key-that-has-expired", "a-key-that-still-holds"


@pytest.fixture
def scoped(bundle: Bundle) -> Iterator[TestClient]:
    keys = [
        ApiKey(READER, frozenset({Right.READ})),
        ApiKey(TELLER, frozenset({Right.HISTORIES})),
        ApiKey(WRITER, frozenset({Right.WRITE})),
        ApiKey(ADMIN, frozenset({Right.ADMIN})),
        ApiKey(EXPIRED, expires=time.time()),
        ApiKey(VALID, expires=time.time() + 1000),
    ]
    with TestClient(create_app(bundle, store=open_store("sqlite://"), keys=keys)) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "key"),
    [
        ("GET", "/v1/users/u001/history", TELLER),
        ("GET", "/v1/users/u001/%68istory", TELLER),
        ("GET", "/v1/users/x%2Fhistory/recommendations?domain=videos", READER),
        ("GET", "/v1/users/u001/recommendations?domain=videos", READER),
        ("GET", "/metrics", READER),
        ("POST", "/v1/recommend", READER),
        ("POST", "/v1/events", WRITER),
        ("DELETE", "/v1/users/u001", ADMIN),
        ("POST", "/v1/model/pin", ADMIN),
        ("PATCH", "/v1/a-route-that-may-come", ADMIN),
    ],
)
def test_a_key_does_what_its_scope_allows_and_no_more(
    method: str, path: str, key: str, scoped: TestClient
) -> None:
    for other in {READER, TELLER, WRITER, ADMIN} - {key}:
        refused = scoped.request(method, path, headers={"x-api-key": other})
        assert refused.status_code == 403
        assert "it needs the scope" in refused.json()["detail"]
    assert scoped.request(method, path, headers={"x-api-key": key}).status_code not in (401, 403)
    assert scoped.request(method, path, headers={"x-api-key": VALID}).status_code not in (401, 403)


def test_an_expired_key_is_refused_from_its_moment_on(
    scoped: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = scoped.get("/v1/domains", headers={"x-api-key": EXPIRED})
    assert refused.status_code == 401
    assert refused.json()["title"] == "The key has expired"
    assert scoped.get("/v1/domains", headers={"x-api-key": VALID}).status_code == 200
    later = time.time() + 1000
    monkeypatch.setattr("crossfeed.serving.http.guards.security.time.time", lambda: later)
    assert scoped.get("/v1/domains", headers={"x-api-key": VALID}).status_code == 401


def test_a_key_shows_itself_nowhere() -> None:
    assert KEY not in repr(ApiKey(KEY))


def test_no_path_from_a_request_is_ever_opened(bundle: Bundle, tmp_path: Path) -> None:
    """Whatever a request holds, of all files none is opened that it names."""
    secret = tmp_path / "planted-secret"
    secret.write_text("secret")
    names = [str(secret), f"file://{secret}", f"../../../../../..{secret}", f"{secret}\0.json"]
    opened: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event in ("open", "os.listdir", "os.scandir"):
            opened.append(str(arguments[0]))

    store = SqliteHistoryStore(tmp_path / "store.sqlite")
    sys.addaudithook(watch)
    with TestClient(create_app(bundle, store=store)) as client:
        for name in names:
            event = {"event_id": name, "user_id": name, "item_id": name, "domain": "videos"}
            client.post("/v1/events", json={"events": [{**event, "timestamp": 1_700_000_000}]})
            client.post("/v1/recommend", json={"user_id": name, "domain": name})
            lists = {"include": [name], "exclude": [name], "candidates": [name]}
            client.post("/v1/recommend", json={"user_id": name, "domain": "videos", **lists})
            client.post("/v1/model/pin", json={"version": name})
            client.post("/v1/model/pin", json={"version": bundle.path.name})
            for path in (name, f"/v1/users/{quote(name, safe='')}/history", f"/docs/{name}"):
                client.get(f"/{quote(path)}", params={"domain": name, "path": name})
            client.delete(f"/v1/users/{quote(name, safe='')}")
    watching = False
    assert any(str(bundle.path) in name for name in opened)  # the watch does see files
    assert not [name for name in opened if "planted-secret" in name]


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data[:-1] + b"\0"])
@pytest.mark.parametrize("name", ["bundle.json", "weights.safetensors", "histories.parquet"])
def test_validate_refuses_a_truncated_or_tampered_bundle(
    name: str, change: Callable[[bytes], bytes], bundle_path: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bundle_path, tmp_path / "bundle"))
    assert CliRunner().invoke(command_line, ["validate", str(copy)]).exit_code == 0
    data = (copy / name).read_bytes().rstrip()
    (copy / name).write_bytes(change(data))
    result = CliRunner().invoke(command_line, ["validate", str(copy)])
    assert result.exit_code == 1
    assert f"is damaged: {name}" in result.stderr.replace("\n", " ")


def test_beyond_loopback_a_key_is_needed(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(ConfigError, match=rf"and no API key is set\nhint: set {KEYS_VARIABLE}"):
            serve(bundle_path, host=host)
    monkeypatch.setenv(KEYS_VARIABLE, "short-secret")
    with pytest.raises(ConfigError, match="is shorter than 16 characters") as caught:
        serve(bundle_path, host="0.0.0.0")
    assert "short-secret" not in str(caught.value)


def test_a_port_in_use_is_a_clear_error(bundle_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{port}: .*in use"):
            serve(bundle_path, port=port)


def test_a_host_that_is_no_name_is_a_clear_error(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEYS_VARIABLE, KEY)
    with pytest.raises(ConfigError, match=r"cannot listen on a\.\.b:8000: .*\nhint: choose"):
        serve(bundle_path, host="a..b")


def test_the_default_store_lies_beside_the_bundle(tmp_path: Path) -> None:
    assert default_store_url(tmp_path / "bundle") == f"sqlite://{tmp_path}/bundle.histories.sqlite"


def test_the_default_store_stays_when_a_link_is_set_to_another_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "v1")
    monkeypatch.chdir(tmp_path)
    url = f"sqlite://{tmp_path}/link.histories.sqlite"
    assert default_store_url(Path("link/")) == url
    old = tmp_path / "v1.histories.sqlite"
    old.touch()
    with pytest.raises(HistoryStoreError, match=f"some in '{old}'\nhint: .*sqlite://{old};"):
        default_store_url(Path("link"))
    old.rename(tmp_path / "link.histories.sqlite")
    assert default_store_url(Path("link")) == url


def test_keys_are_split_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEYS_VARIABLE, f" {KEY} ,, another-key-entirely\n")
    assert keys_from_environment() == (ApiKey(KEY), ApiKey("another-key-entirely"))
    monkeypatch.setenv(KEYS_VARIABLE, f"{KEY};scopes=read+write; expires=2027-01-31T00:00:00Z")
    rights, end = frozenset({Right.READ, Right.WRITE}), 1_801_353_600
    assert keys_from_environment() == (ApiKey(KEY, rights, expires=end),)
    monkeypatch.delenv(KEYS_VARIABLE)
    assert keys_from_environment() == ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (" , ", "is set, but holds no key"),
        (f"{KEY},planted", "is shorter than 16 characters"),
        ("planted-clé-de-seize-lettres", "beyond ASCII"),
        ("planted key with spaces", "holds a space"),
        ("planted-key-with-\x07-bell", "holds a space or"),
        (f"{KEY};planted-second-key", "has an option that is not scopes or expires"),
        (f"{KEY};scopes=read+all", "has a scope that is none of: read, histories, write, admin"),
        (f"{KEY};scopes=", "has a scope that is none of"),
        (f"{KEY};scopes=read planted-second-key", "has a scope that is none of"),
        (
            f"{KEY};expires=2027-01-31\nplanted-second-key",
            "has an end that is not an ISO 8601 time",
        ),
    ],
)
def test_keys_that_cannot_work_are_refused_and_not_shown(
    value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEYS_VARIABLE, value)
    with pytest.raises(ConfigError, match=rf"{message}.*\nhint: make one with") as caught:
        keys_from_environment()
    assert "planted" not in str(caught.value) and KEY not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_this_machine_needs_no_key(host: str) -> None:
    require_keys_beyond(host, ())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "localhost.example.org"])
def test_other_hosts_do(host: str) -> None:
    require_keys_beyond(host, (ApiKey(KEY),))
    with pytest.raises(ConfigError, match="can be reached from other machines"):
        require_keys_beyond(host, ())


def test_a_store_that_fails_stops_the_service_before_it_is_announced(
    bundle_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "store.sqlite").write_text("no database" * 100)
    announced: list[str] = []
    with pytest.raises(HistoryStoreError, match="file is not a database"):
        serve(
            bundle_path,
            port=0,
            history_store=f"sqlite:///{tmp_path}/store.sqlite",
            announce=announced.append,
        )
    assert announced == []
