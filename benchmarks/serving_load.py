"""The load of the serving benchmark: a process of its own that asks over loopback.

    python benchmarks/serving_load.py URL [--connections 1] [--rate R] [--writes] [--seconds 3]

Without a rate each connection asks again as soon as it is answered; with one, requests arrive at
random (Poisson) and a latency counts from the arrival, so that waiting for a connection is in it.
With writes every tenth request is preceded by an event, which is timed on its own. It is one thread
over bare sockets, so that little of what is measured is its own. Printed is one line of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import numpy as np

__all__ = ["DOMAIN", "USERS"]

USERS = 1_000
DOMAIN = "shop"
_WRITES_EVERY = 10
_CONNECTIONS_OF_A_RATE = 64

Make = Callable[[int], bytes]
"""From the number of a request to its bytes."""


class Connection:
    """One connection that waits for one answer at a time."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._connect()
        self.since = 0.0
        self.is_write = False
        self._received = b""

    def fileno(self) -> int:
        """Let `select` wait for it."""
        return self.socket.fileno()

    def _connect(self) -> None:
        self.socket = socket.create_connection(self._address, timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._is_closed = False

    def send(self, request: bytes, *, since: float, is_write: bool) -> None:
        """Ask; the latency counts from `since`, a new connection included where one is needed."""
        self.since, self.is_write, self._received = since, is_write, b""
        if self._is_closed:
            self.socket.close()
            self._connect()
        self.socket.sendall(request)

    def receive(self) -> tuple[int, bytes] | None:
        """Return status and body once they are complete."""
        part = self.socket.recv(1 << 18)
        if not part:
            raise ConnectionError("the service closed the connection")
        self._received += part
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return None
        told = head.lower()
        self._is_closed = b"\r\nconnection: close" in told
        length = told.partition(b"content-length:")[2].split(b"\r\n")[0]
        if len(body) < int(length):
            return None
        return int(head[9:12]), body


class Load:
    """Connections that ask until it is time to stop, and what they measured."""

    def __init__(
        self, url: str, *, connections: int, read: Make, write: Make | None, items: str
    ) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None and parts.port is not None
        self._idle = deque(Connection((parts.hostname, parts.port)) for _ in range(connections))
        self._busy: set[Connection] = set()
        self._read, self._write, self._items = read, write, items
        self._numbers = itertools.count()
        self.seconds: list[float] = []
        self.write_seconds: list[float] = []
        self.failures = 0

    def closed(self, until: float) -> None:
        """Ask over every connection again as soon as it is answered."""
        while self._busy or time.perf_counter() < until:
            while self._idle and time.perf_counter() < until:
                self._ask(since=None)
            self._receive(None)

    def open(self, arrivals: Iterator[float]) -> None:
        """Ask at the given times (of `time.perf_counter`), or as soon as a connection is free."""
        arrival = next(arrivals, None)
        while self._busy or arrival is not None:
            while arrival is not None and self._idle and time.perf_counter() >= arrival:
                self._ask(since=arrival)
                arrival = next(arrivals, None)
            wait = None
            if arrival is not None and self._idle:
                wait = max(0.0, arrival - time.perf_counter())
            self._receive(wait)

    def _ask(self, *, since: float | None) -> None:
        """Send the next request; an event comes before it and on a connection of its own."""
        number = next(self._numbers)
        if self._write is not None and number % _WRITES_EVERY == 0:
            self._send(self._write(number), since=since, is_write=True)
            if not self._idle:  # one connection: first the event, then the request
                self._receive(None)
        if self._idle:
            self._send(self._read(number), since=since, is_write=False)

    def _send(self, request: bytes, *, since: float | None, is_write: bool) -> None:
        connection = self._idle.popleft()
        self._busy.add(connection)
        connection.send(request, since=since or time.perf_counter(), is_write=is_write)

    def _receive(self, wait: float | None) -> None:
        """Wait for answers as long as told; None is until one comes."""
        ready, _, _ = select.select(self._busy, (), (), wait)
        for connection in ready:
            answer = connection.receive()
            if answer is None:
                continue
            seconds = time.perf_counter() - connection.since
            (self.write_seconds if connection.is_write else self.seconds).append(seconds)
            self._busy.discard(connection)
            self._idle.append(connection)
            status, body = answer
            good = status == 200 and (connection.is_write or self._is_answer(body))
            self.failures += not good

    def _is_answer(self, body: bytes) -> bool:
        return len(json.loads(body).get(self._items, ())) == 10


def _post(path: str, body: object) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


def _recommend(number: int) -> bytes:
    body = {"user_id": f"u{number * 7919 % USERS}", "domain": DOMAIN, "k": 10}
    return _post("/v1/recommend", body)


def _get(path: str) -> Make:
    """Return what asks for a path with a user's number in the place of USER."""
    request = f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"
    return lambda number: request.replace("USER", str(number * 7919 % USERS)).encode()


def _event(number: int) -> bytes:
    event = {
        "event_id": f"{time.time_ns()}-{number}",
        "user_id": f"u{number % USERS}",
        "item_id": number % 1_000,
        "domain": DOMAIN,
        "timestamp": int(time.time()),
    }
    return _post("/v1/events", {"events": [event]})


def main() -> None:
    """Read the command line, ask, print what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--rate", type=float, help="requests a second")
    parser.add_argument("--writes", action="store_true", help="an event with every tenth request")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--get", metavar="PATH", help="instead of crossfeed's own; with USER in it")
    parser.add_argument("--items", default="items", help="field of the answer with its ten items")
    given = parser.parse_args()
    load = Load(
        given.url,
        connections=given.connections if given.rate is None else _CONNECTIONS_OF_A_RATE,
        read=_get(given.get) if given.get else _recommend,
        write=_event if given.writes else None,
        items=given.items,
    )
    began = time.perf_counter()
    if given.rate is None:
        load.closed(began + given.seconds)
    else:
        count = max(1, round(given.rate * given.seconds))
        gaps = np.random.default_rng(0).exponential(1 / given.rate, count)
        load.open(iter((began + np.cumsum(gaps)).tolist()))
    took = time.perf_counter() - began
    found = {f"p{p}_ms": round(float(np.percentile(load.seconds, p)) * 1000, 3) for p in (50, 99)}
    if load.write_seconds:
        found["write_p50_ms"] = round(float(np.median(load.write_seconds)) * 1000, 3)
    counted = {"per_second": round(len(load.seconds) / took, 1), "failures": load.failures}
    print(json.dumps({**found, **counted}))


if __name__ == "__main__":
    main()
