"""The floor of the serving benchmark: what no service of this kind can leave out.

    python benchmarks/serving_floor.py             # serves an echo; its URL is printed
    python benchmarks/serving_floor.py BUNDLE      # serves echo + bare encoder + bare search

Both read the same requests by the same server, router and models, and write answers of the same
form. The second one also runs, on the event loop and with nothing around it, the encoder on the
user's 50 events and the best 10 of the product with all items. Not in it: the store of histories,
rules, names of items, keys and limits, threads, metrics and logs.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable

import numpy as np
import uvicorn
from fastapi import FastAPI

from crossfeed.bundle import Bundle
from crossfeed.scorer import Histories
from crossfeed.serving.http.route import Route
from crossfeed.serving.http.schemas import Answer, RecommendBody
from crossfeed.serving.recommend.answers import Recommendation, Recommendations
from crossfeed.serving.recommend.ranking import best_first

Work = Callable[[RecommendBody], object]

_USERS, _HISTORY = 1_000, 50


def bare(bundle: Bundle) -> Work:
    """Return what encodes a user and searches the pool, without all else."""
    draws, domain = np.random.default_rng(0), np.zeros(1, np.int64)
    rows = draws.integers(bundle.catalogue.items, size=(_USERS, _HISTORY))
    histories = {f"u{user}": Histories.of([row]) for user, row in enumerate(rows)}
    pool = bundle.catalogue.pool(0)
    vectors, biases = bundle.item_vectors[pool], bundle.item_biases[pool]
    index = bundle.indexes.get(bundle.catalogue.domains[0])
    everything = np.ones(len(vectors), np.bool_)

    def work(body: RecommendBody) -> object:
        [user] = bundle.encoder.user_vectors(histories[str(body.user_id)], domain)
        if index is not None:
            return index.search(user, everything, 10)
        return best_first(vectors @ user + biases, 10)

    return work


def serve(work: Work) -> None:
    """Serve on a free port of this machine; print the URL."""
    items = tuple(Recommendation(item, "shop", 0.5, "pool") for item in range(10))

    async def echo(body: RecommendBody) -> bytes:
        work(body)
        return Answer.of(Recommendations(items, "echo"), took_ms=0.0).to_json()

    app = FastAPI()
    route = Route("POST", "/v1/recommend", echo, answer=Answer, tag="", body=RecommendBody)
    app.router.routes[:0] = [route]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        config = uvicorn.Config(app, log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    serve(bare(Bundle.load(sys.argv[1])) if sys.argv[1:] else lambda body: None)
