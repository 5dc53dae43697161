"""The load of the serving benchmark: a process of its own that asks over loopback.

    python benchmarks/serving_load.py URL [--connections 1] [--rate R] [--writes] [--seconds 3]

Without a rate each connection asks again as soon as it is answered; with one, requests arrive at
random (Poisson) and a latency counts from the arrival, so that waiting for a connection is in it.
Printed is one line of JSON.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import numpy as np

USERS = 1_000
DOMAIN = "shop"
_WRITES_EVERY = 10
_CONNECTIONS_OF_A_RATE = 64


class Load:
    """Connections that ask for the same time, and what they measured."""

    def __init__(self, url: str, *, writes: bool) -> None:
        self._host = urlsplit(url).netloc
        self._writes = writes
        self._numbers = itertools.count()
        self.seconds: list[float] = []
        self.failures = 0

    def ask(self, arrivals: Callable[[], Iterator[float]]) -> None:
        """Ask over one connection, once for each arrival (seconds of `time.perf_counter`)."""
        connection = http.client.HTTPConnection(self._host, timeout=30)
        for arrival in arrivals():
            number = next(self._numbers)
            if self._writes and number % _WRITES_EVERY == 0:
                self._post(connection, "/v1/events", _event(number))
            body = {"user_id": f"u{number * 7919 % USERS}", "domain": DOMAIN, "k": 10}
            status, items = self._post(connection, "/v1/recommend", body)
            self.seconds.append(time.perf_counter() - arrival)
            self.failures += status != 200 or items != 10

    def _post(
        self, connection: http.client.HTTPConnection, path: str, body: object
    ) -> tuple[int, int]:
        content = json.dumps(body)
        connection.request("POST", path, content, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, len(json.loads(answer.read()).get("items", ()))


def _event(number: int) -> object:
    event = {
        "event_id": f"{time.time_ns()}-{number}",
        "user_id": f"u{number % USERS}",
        "item_id": number % 1_000,
        "domain": DOMAIN,
        "timestamp": int(time.time()),
    }
    return {"events": [event]}


def _as_answered(end: float) -> Iterator[float]:
    while (now := time.perf_counter()) < end:
        yield now


def _at_random(times: Iterator[float]) -> Iterator[float]:
    """Wait for the next arrival that no other connection has taken."""
    while (arrival := next(times, None)) is not None:
        time.sleep(max(0.0, arrival - time.perf_counter()))
        yield arrival


class _Shared(Iterator[float]):
    """Arrivals that several threads take from."""

    def __init__(self, times: list[float]) -> None:
        self._times, self._gate = iter(times), threading.Lock()

    def __next__(self) -> float:
        with self._gate:
            return next(self._times)


def main() -> None:
    """Read the command line, ask, print what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--rate", type=float, help="requests a second")
    parser.add_argument("--writes", action="store_true", help="an event with every tenth request")
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    load, began = Load(given.url, writes=given.writes), time.perf_counter()
    connections = given.connections
    if given.rate is None:
        arrivals: Callable[[], Iterator[float]] = lambda: _as_answered(began + given.seconds)  # noqa: E731
    else:
        count = max(1, round(given.rate * given.seconds))
        gaps = np.random.default_rng(0).exponential(1 / given.rate, count)
        shared = _Shared((began + np.cumsum(gaps)).tolist())
        arrivals, connections = (lambda: _at_random(shared)), _CONNECTIONS_OF_A_RATE
    threads = [threading.Thread(target=load.ask, args=(arrivals,)) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    p50, p99 = np.percentile(load.seconds, [50, 99]) * 1000
    found = {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3)}
    counted = {"per_second": round(len(load.seconds) / took, 1), "failures": load.failures}
    print(json.dumps({**found, **counted}))


if __name__ == "__main__":
    main()
