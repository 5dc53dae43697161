"""A client that does not read, and a log that nobody reads, hold nobody else up."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import threading
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp
from uvicorn.protocols.http.flow_control import FlowControl

from crossfeed.bundle import Bundle
from crossfeed.serving.histories.url import open_store
from crossfeed.serving.http.app import create_app
from crossfeed.serving.http.guards.admission import Admission
from crossfeed.serving.http.guards.limits import Limits
from crossfeed.serving.http.protocol import LimitedProtocol
from crossfeed.serving.operations.log_writer import LogWriter
from crossfeed.serving.operations.monitoring import REQUEST_LOG

LARGE = 32_000_000
"""More than the buffers of a connection on this machine hold."""

GET = b"GET /%s HTTP/1.1\r\nhost: localhost\r\n\r\n"


class Impatient(LimitedProtocol):
    timeout_seconds = 0.05


class Patient(LimitedProtocol):
    timeout_seconds = 60.0


def application(**limits: float) -> ASGIApp:
    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse("x" * int(request.path_params["size"]))

    return Admission(
        Starlette(routes=[Route("/{size}", answer)]),
        limits=Limits(**limits),  # type: ignore[arg-type]
        open_paths=frozenset(),
        full=PlainTextResponse("full", 503),
        late=PlainTextResponse("late", 503),
    )


async def listening(
    app: ASGIApp, protocol: type[LimitedProtocol] = Impatient
) -> tuple[uvicorn.Server, asyncio.Task[None], int]:
    config = uvicorn.Config(app, port=0, http=protocol, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.001)
    return server, task, server.servers[0].sockets[0].getsockname()[1]


async def status_of(port: int, path: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(GET % path)
    status = await reader.readline()
    writer.close()
    return status.split()[1]


def test_who_does_not_read_loses_the_connection_and_its_place() -> None:
    async def run() -> None:
        server, task, port = await listening(application(requests_at_once=1))
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write((GET % str(LARGE).encode()) * 2)  # the second answer waits behind the first
        while await status_of(port, b"1") == b"503":  # until its place is free again
            await asyncio.sleep(0.01)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(2 * LARGE)
        writer.close()
        server.should_exit = True
        await task

    asyncio.run(asyncio.wait_for(run(), 60))


def test_who_reads_gets_all_of_a_large_answer() -> None:
    async def run() -> None:
        server, task, port = await listening(application(), Patient)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET % str(LARGE).encode())
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(LARGE) == b"x" * LARGE
        writer.close()
        server.should_exit = True
        await task

    asyncio.run(asyncio.wait_for(run(), 60))


class Buffer(asyncio.Transport):
    """A transport whose client has read so much each time that somebody looks."""

    aborted = False

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.sizes = list(sizes)

    def get_write_buffer_size(self) -> int:
        return self.sizes.pop(0)

    def abort(self) -> None:
        self.aborted = True


class Watching(LimitedProtocol):
    timeout_seconds = 0.0

    def __init__(self, transport: Buffer) -> None:  # nothing else of a connection is needed
        self.transport, self.loop = transport, asyncio.get_running_loop()
        self.flow = FlowControl(transport)


def test_who_reads_slowly_is_waited_for_and_who_stops_is_not() -> None:
    async def run() -> None:
        # Looked at: at first, and then twice in each span, at its end and at the next one's start.
        transport = Buffer(800_000, 700_000, 700_000, 600_000, 600_000, 599_000)
        protocol = Watching(transport)
        protocol.pause_writing()
        while not transport.aborted:
            await asyncio.sleep(0)
        assert transport.sizes == []
        again = Watching(Buffer(800_000))
        again.pause_writing()
        again.resume_writing()
        await asyncio.sleep(0.01)
        assert not again.transport.aborted

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_log_that_nobody_reads_drops_lines_and_counts_them(bundle: Bundle) -> None:
    """A pipe that is full blocks its writer: as stderr does where nobody reads it."""
    read, write = os.pipe()
    writer = LogWriter(os.fdopen(write, "w"), most_lines=5)
    log = logging.getLogger(REQUEST_LOG)
    before = log.handlers, log.propagate, log.level
    log.handlers, log.propagate = [writer], False
    log.setLevel(logging.INFO)
    try:
        with TestClient(create_app(bundle, store=open_store("sqlite://"))) as client:
            while not writer.dropped:
                assert client.get("/health/live").status_code == 200
            page = client.get("/metrics").text
        [count] = re.findall(r"^crossfeed_log_lines_dropped_total (.+)$", page, re.MULTILINE)
        assert float(count) >= 1
    finally:
        log.handlers, log.propagate = before[:2]
        log.setLevel(before[2])
        reading = threading.Thread(target=_drain, args=[read])
        reading.start()
        writer.close()
        writer._stream.close()
        reading.join()


def _drain(file: int) -> None:
    while os.read(file, 65_536):
        pass
    os.close(file)


def test_what_waits_is_written_before_the_end(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        writer = LogWriter(stream)
        for number in range(100):
            writer.handle(logging.makeLogRecord({"msg": json.dumps({"line": number})}))
        writer.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert [json.loads(line)["line"] for line in lines] == list(range(100))


def test_a_stream_that_is_gone_ends_nothing(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        writer = LogWriter(stream)
    for _ in range(3):
        writer.handle(logging.makeLogRecord({"msg": "line"}))
    writer.close()
    assert not writer._thread.is_alive()
