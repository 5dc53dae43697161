"""The floor of the serving benchmark: what no service of this kind can leave out.

    python benchmarks/serving_floor.py         # serves an echo; its URL is printed

An echo over the same server, router and models, which reads the same request and writes an answer
of the same form; then, for one user after another, the bare encoder on a history of 50 events and
the bare top 10 of the product with all items.
"""

from __future__ import annotations

import socket
import time

import numpy as np
import uvicorn
from fastapi import FastAPI

from crossfeed.bundle import Bundle
from crossfeed.scorer import Histories
from crossfeed.serving.answers import Recommendation, Recommendations
from crossfeed.serving.hot_route import HotRoute, json_body
from crossfeed.serving.retrieval import best_first
from crossfeed.serving.schemas import Answer, RecommendBody

__all__ = ["bare_milliseconds"]

_HISTORY = 50


def bare_milliseconds(bundle: Bundle, *, users: int = 300) -> dict[str, float]:
    """Return the medians of one pass of the encoder and of one search, taken in turn."""
    draws, domain = np.random.default_rng(0), np.zeros(1, np.int64)
    pool = bundle.catalogue.pool(0)
    vectors, biases = bundle.item_vectors[pool], bundle.item_biases[pool]
    index = bundle.indexes.get(bundle.catalogue.domains[0])
    everything = np.ones(len(vectors), np.bool_)
    taken = []
    for _ in range(users):
        history = Histories.of([draws.integers(bundle.catalogue.items, size=_HISTORY)])
        began = time.perf_counter()
        [user] = bundle.encoder.user_vectors(history, domain)
        encoded = time.perf_counter()
        if index is not None:
            index.search(user, everything, 10)
        else:
            best_first(vectors @ user + biases, 10)
        taken.append((encoded - began, time.perf_counter() - encoded))
    encoder, search = np.median(taken, axis=0) * 1000
    return {"encoder": round(float(encoder), 4), "search": round(float(search), 4)}


def _serve_echo() -> None:
    items = tuple(Recommendation(item, "shop", 0.5, "pool") for item in range(10))

    async def echo(body: RecommendBody) -> bytes:
        return Answer.of(Recommendations(items, "echo"), took_ms=0.0).to_json()

    app = FastAPI()
    route = HotRoute("POST", "/v1/recommend", echo, read=json_body("body", RecommendBody))
    app.router.routes[:0] = [route]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        config = uvicorn.Config(app, log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    _serve_echo()
