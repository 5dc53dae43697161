"""A span per request and one per stage, off by default, and no user in any of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient

from crossfeed.bundle import Bundle
from crossfeed.errors import MissingExtraError
from crossfeed.serving.histories.sqlite.store import SqliteHistoryStore
from crossfeed.serving.http.app import create_app
from crossfeed.serving.operations.tracing import Tracing, tracing_from_environment

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def client(bundle: Bundle, tmp_path: Path, exporter: InMemorySpanExporter) -> Iterator[TestClient]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    store = SqliteHistoryStore(tmp_path / "store.sqlite")
    app = create_app(bundle, store=store, tracing=Tracing(provider))
    with TestClient(app) as client:
        yield client


def spans(exporter: InMemorySpanExporter) -> tuple[ReadableSpan, dict[str, ReadableSpan]]:
    """Return the span of the one request, and those of its stages by name."""
    found = exporter.get_finished_spans()
    [request] = [span for span in found if span.name.startswith(("GET ", "POST "))]
    stages = {span.name: span for span in found if span is not request}
    assert len(stages) == len(found) - 1
    return request, stages


def test_a_recommendation_is_a_span_with_its_stages(
    client: TestClient, exporter: InMemorySpanExporter
) -> None:
    asked = "/v1/users/u001/recommendations?domain=videos"
    assert client.get(asked, headers=PARENT).status_code == 200
    request, stages = spans(exporter)
    assert request.name == "GET /v1/users/{user_id}/recommendations"
    assert request.context is not None and f"{request.context.trace_id:032x}" == TRACE
    assert dict(request.attributes or {}) == {
        "http.request.method": "GET",
        "http.route": "/v1/users/{user_id}/recommendations",
        "http.response.status_code": 200,
    }
    assert list(stages) == ["store", "encode", "retrieve", "rank"]
    assert request.start_time is not None and request.end_time is not None
    for stage in stages.values():
        assert stage.parent is not None and stage.parent.span_id == request.context.span_id
        assert stage.start_time is not None and stage.end_time is not None
        assert stage.start_time <= stage.end_time <= request.end_time


def test_storing_events_is_a_stage(client: TestClient, exporter: InMemorySpanExporter) -> None:
    event = {"event_id": "e1", "user_id": "secret-user", "item_id": "a03", "domain": "articles"}
    body = {"events": [{**event, "timestamp": 1_700_000_000}]}
    assert client.post("/v1/events", json=body).status_code == 200
    request, stages = spans(exporter)
    assert list(stages) == ["write"]
    assert request.context is not None and stages["write"].parent is not None
    assert stages["write"].parent.span_id == request.context.span_id


def test_no_span_names_a_user_not_even_of_what_fails(
    client: TestClient, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.post("/v1/recommend", json={"user_id": "secret-user", "domain": "none"})
    client.post("/v1/recommend", json={"user_id": "secret-user", "domain": "videos", "k": -5})
    client.get("/v1/users/secret-user/history?secret=query")

    def fail(*_: object, **__: object) -> None:
        raise KeyError("secret-user")

    monkeypatch.setattr("crossfeed.serving.recommend.recommender.Recommender.answer", fail)
    failed = client.post("/v1/recommend", json={"user_id": "secret-user", "domain": "videos"})
    assert failed.status_code == 500
    told = [span.to_json() for span in exporter.get_finished_spans()]
    assert len(told) == 4 and "secret" not in "".join(told)
    assert sum('"status_code": "ERROR"' in one for one in told) == 1


VARIABLES = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_it_is_off_unless_asked_for(environment: pytest.MonkeyPatch) -> None:
    assert tracing_from_environment(asked=False) is None
    environment.setenv("OTEL_TRACES_EXPORTER", "none")
    assert tracing_from_environment(asked=True) is None


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_TRACES_EXPORTER", "console"), (VARIABLES[1], "http://127.0.0.1:9")]
)
def test_the_standard_variables_ask_for_it(
    name: str, value: str, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv(name, value)
    environment.setenv("OTEL_SERVICE_NAME", "shop-feed")
    tracing = tracing_from_environment(asked=False)
    assert tracing is not None
    assert tracing._provider.resource.attributes["service.name"] == "shop-feed"
    tracing.close()


def test_without_the_extra_a_flag_is_an_error_and_a_variable_a_warning(
    environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    find = importlib.util.find_spec
    hidden = "opentelemetry.exporter"
    environment.setattr(
        "importlib.util.find_spec", lambda name: None if name == hidden else find(name)
    )
    with pytest.raises(MissingExtraError, match="otel"):
        tracing_from_environment(asked=True)
    environment.setenv(*VARIABLES[:1], "otlp")
    assert tracing_from_environment(asked=False) is None
    assert "the extra 'otel' is not installed" in caplog.text
