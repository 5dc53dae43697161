"""What one process takes on: how large, how slow, how many, how often."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crossfeed.bundle import Bundle
from crossfeed.serving.histories.url import open_store
from crossfeed.serving.http.app import create_app
from crossfeed.serving.http.guards.admission import Admission, BodyLimit, RateLimit
from crossfeed.serving.http.guards.limits import Limits
from crossfeed.serving.http.guards.security import ApiKey

FULL, LATE = PlainTextResponse("full", 503), PlainTextResponse("late", 503)


async def ask(app: ASGIApp, path: str = "/", **state: object) -> str:
    """Return the body of an application's answer to a GET."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "state": state}
    await app(scope, receive, send)
    return b"".join(message.get("body", b"") for message in sent).decode()


class Held:
    """An application that answers when it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.go.wait()
        await PlainTextResponse("done")(scope, receive, send)


def admission(app: ASGIApp, **limits: float) -> Admission:
    return Admission(
        app,
        limits=Limits(**limits),
        open_paths={"/open"},
        full=FULL,
        late=LATE,  # type: ignore[arg-type]
    )


def test_what_comes_while_all_places_are_taken_is_refused_at_once() -> None:
    async def run() -> None:
        held = Held()
        app = admission(held, requests_at_once=2)
        working = [asyncio.create_task(ask(app)) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert await ask(app) == "full"
        open_path = asyncio.create_task(ask(app, "/open"))
        held.go.set()
        assert await asyncio.gather(*working, open_path) == ["done"] * 3
        assert await ask(app) == "done"

    asyncio.run(run())


def test_what_takes_too_long_is_answered_for_and_keeps_its_place() -> None:
    async def run() -> None:
        held = Held()
        app = admission(held, requests_at_once=1, timeout_seconds=0.01)
        assert await ask(app) == "late"
        assert await ask(app) == "full"
        held.go.set()
        await asyncio.sleep(0.01)
        assert await ask(app) == "done"

    asyncio.run(run())


def test_an_answer_that_has_begun_is_not_cut_off() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b"whole"})

    assert asyncio.run(ask(admission(slow, timeout_seconds=0.01))) == "whole"


def test_an_error_in_time_is_raised_and_a_late_one_is_not(
    recwarn: pytest.WarningsRecorder,
) -> None:
    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.02)
        raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        asyncio.run(ask(admission(fail)))

    async def late() -> str:
        answer = await ask(admission(fail, timeout_seconds=0.01))
        await asyncio.sleep(0.05)
        return answer

    assert asyncio.run(late()) == "late"
    assert not recwarn.list


def body_limit(app: ASGIApp, **limits: float) -> BodyLimit:
    return BodyLimit(
        app,
        limits=Limits(**limits),  # type: ignore[arg-type]
        too_large=PlainTextResponse("large", 413),
        too_slow=PlainTextResponse("slow", 408),
        full=FULL,
    )


def test_a_body_that_comes_too_slowly_is_refused() -> None:
    async def never() -> Message:
        await asyncio.sleep(60)
        raise AssertionError

    async def run() -> str:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        app = body_limit(Held(), timeout_seconds=0.01)
        await app({"type": "http", "method": "POST", "path": "/", "headers": []}, never, send)
        return str(sent[0]["status"])

    assert asyncio.run(run()) == "408"


async def post(app: ASGIApp, *, rest: asyncio.Event, length: int = 11) -> str:
    """Return the body of the answer to a POST whose second half comes when `rest` is set."""
    sent: list[Message] = []
    halves = iter([b"first", b"second"])

    async def receive() -> Message:
        half = next(halves)
        if half == b"second":
            await rest.wait()
        return {"type": "http.request", "body": half, "more_body": half == b"first"}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-length", str(length).encode())]
    await app({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive, send)
    return b"".join(message.get("body", b"") for message in sent).decode()


def test_as_many_bodies_are_on_their_way_as_requests_in_work() -> None:
    async def run() -> None:
        rest = asyncio.Event()
        app = body_limit(PlainTextResponse("done"), requests_at_once=2)
        coming = [asyncio.create_task(post(app, rest=rest)) for _ in range(2)]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(post(app, rest=rest), 5) == "full"
        assert await ask(app) == "done"  # what is there already needs no place
        rest.set()
        assert await asyncio.gather(*coming) == ["done"] * 2
        assert await post(app, rest=rest) == "done"

    asyncio.run(run())


def test_a_body_that_says_that_it_is_too_large_is_not_waited_for() -> None:
    app = body_limit(PlainTextResponse("done"), body_bytes=1000, timeout_seconds=5)
    assert asyncio.run(post(app, rest=asyncio.Event(), length=1001)) == "large"


class Clock:
    """A clock that is moved by hand."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_each_key_has_a_share_that_fills_up_again() -> None:
    clock = Clock()
    app = RateLimit(
        PlainTextResponse("done"),
        per_second=2,
        open_paths={"/open"},
        refusal=lambda wait: PlainTextResponse(f"wait {wait}", 429),
        clock=clock,
    )
    one, other = ApiKey("one"), ApiKey("other")

    def answers(times: int, key: ApiKey, path: str = "/") -> list[str]:
        return [asyncio.run(ask(app, path, key=key)) for _ in range(times)]

    assert answers(3, one) == ["done", "done", "wait 1"]
    assert answers(1, other) == ["done"]
    assert answers(3, one, "/open") == ["done"] * 3
    clock.now += 0.5
    assert answers(2, one) == ["done", "wait 1"]
    clock.now += 1_000
    assert answers(3, one) == ["done", "done", "wait 1"]


def test_less_than_one_request_per_second_names_the_wait() -> None:
    clock = Clock()
    app = RateLimit(
        PlainTextResponse("done"),
        per_second=0.1,
        open_paths=frozenset(),
        refusal=lambda wait: PlainTextResponse(f"wait {wait}", 429),
        clock=clock,
    )
    assert [asyncio.run(ask(app)) for _ in range(2)] == ["done", "wait 10"]
    clock.now += 9
    assert asyncio.run(ask(app)) == "wait 1"
    clock.now += 1
    assert asyncio.run(ask(app)) == "done"


Serve = Callable[[Limits], TestClient]


@pytest.fixture
def serve(bundle: Bundle) -> Iterator[Serve]:
    clients: list[TestClient] = []

    def start(limits: Limits) -> TestClient:
        app = create_app(bundle, store=open_store("sqlite://"), limits=limits)
        clients.append(TestClient(app).__enter__())
        return clients[-1]

    yield start
    for client in clients:
        client.__exit__(None, None, None)


def test_the_service_refuses_with_the_time_to_wait(serve: Serve) -> None:
    often = serve(Limits(requests_per_second=1))
    assert often.get("/v1/domains").status_code == 200
    refused = often.get("/v1/domains")
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["title"] == "Too many requests"
    page = often.get("/metrics").text
    assert 'crossfeed_requests_total{route="/v1/domains",status="429"} 1.0' in page
    for path in ("/health/ready", "/metrics"):
        assert often.get(path).status_code == 200
    busy = serve(Limits(requests_at_once=0))
    refused = busy.get("/v1/domains")
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["content-type"] == "application/problem+json"
    page = busy.get("/metrics").text
    assert 'crossfeed_requests_total{route="/v1/domains",status="503"} 1.0' in page
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert busy.get(path).status_code == 200
