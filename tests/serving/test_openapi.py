"""Requests made up from the OpenAPI document, valid ones and broken ones: none makes a 5xx."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import schemathesis.engine.events
import schemathesis.reporting.html.writer
import schemathesis.reporting.junitxml

# Imported before the service starts: pytest parses these modules, the service's threads parse
# the headers of arrays, and Python 3.11.7 counts the depth of both in one place.
import schemathesis.specs.openapi.schemas
import schemathesis.transport.asgi
import schemathesis.transport.wsgi
import schemathesis.wfc.escalation
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from crossfeed.bundle import Bundle
from crossfeed.serving.histories.sqlite.store import SqliteHistoryStore
from crossfeed.serving.http.app import create_app
from crossfeed.serving.http.schemas import Problem

OPERATIONS = (
    "POST /v1/recommend",
    "GET /v1/users/{user_id}/recommendations",
    "GET /v1/users/{user_id}/history",
    "POST /v1/events",
    "DELETE /v1/users/{user_id}",
    "PUT /v1/items/availability",
    "GET /v1/domains",
    "GET /v1/model",
    "POST /v1/model/pin",
    "GET /metrics",
    "GET /health/live",
    "GET /health/ready",
)

Api = schemathesis.schemas.BaseSchema


def staying_up(app: ASGIApp) -> ASGIApp:
    """Keep an application from being started and ended with every request of schemathesis."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})

    return answer


@pytest.fixture(scope="module")
def api(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    file: Path = tmp_path_factory.mktemp("store") / "store.sqlite"
    app = create_app(bundle, store=SqliteHistoryStore(file))
    with TestClient(app):
        yield schemathesis.openapi.from_asgi("/openapi.json", staying_up(app))


def test_every_route_is_in_the_document(api: Api) -> None:
    assert {found.ok().label for found in api.get_all_operations()} == set(OPERATIONS)


# What takes no body and no query has no broken form: any text is a user's id.
_WITH_BODY = ("POST /v1/recommend", "POST /v1/events", "PUT /v1/items/availability")
ASKED = [(label, GenerationMode.POSITIVE) for label in OPERATIONS]
ASKED += [(label, GenerationMode.NEGATIVE) for label in _WITH_BODY]
ASKED += [("GET /v1/users/{user_id}/recommendations", GenerationMode.NEGATIVE)]


def ask_all(api: Api, label: str, mode: GenerationMode, change: Callable[[Any], None]) -> set[int]:
    """Ask for one operation in many ways; return the answers' statuses."""
    method, _, path = label.partition(" ")
    statuses: set[int] = set()

    @settings(
        max_examples=40,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        deadline=None,
        derandomize=True,
    )
    @given(case=api[path][method].as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        for part in (case.query, case.body):
            change(part)
        response = case.call_and_validate(checks=[not_a_server_error])
        statuses.add(response.status_code)
        if response.status_code >= 400:
            assert response.headers["content-type"] == ["application/problem+json"]
            Problem.model_validate_json(response.content)

    ask()
    return statuses


@pytest.mark.parametrize(("label", "mode"), ASKED)
def test_no_request_makes_a_server_error(label: str, mode: GenerationMode, api: Api) -> None:
    ask_all(api, label, mode, lambda part: None)


@pytest.mark.parametrize("label", (OPERATIONS[1], *_WITH_BODY))
def test_no_request_about_a_domain_that_exists_makes_one(label: str, api: Api) -> None:
    assert 200 in ask_all(api, label, GenerationMode.POSITIVE, put_into_domain)


def put_into_domain(part: Any) -> None:
    """Let a part of a request name a domain that there is and times that can be.

    What the schema allows one by one and not together is taken out, so that some are answered.
    """
    for event in part if isinstance(part, list) else []:
        put_into_domain(event)
    if isinstance(part, dict):
        changed = {"domain": "videos", "timestamp": 1_700_000_000}
        part.update({name: value for name, value in changed.items() if name in part})
        if part.pop("domains", None):  # a feed of them
            for other in ("k", "domain", "candidates"):
                part.pop(other, None)
            part["domains"] = {"videos": 2, "articles": 1}
        if part.get("history") is not None:
            part.pop("user_id", None)
        part.pop("sources", None)
        for inner in ("events", "history", "items"):
            put_into_domain(part.get(inner))
