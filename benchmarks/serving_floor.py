"""The floor of the serving benchmark: what no service of this kind can leave out.

    python benchmarks/serving_floor.py echo         # serves an echo; its URL is printed

An echo over the same framework, which reads the same request and writes an answer of the same form;
the bare encoder on timelines of 50 events; and the bare top 10 of the product with all items.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import numpy as np
import uvicorn
from fastapi import FastAPI

from crossfeed.bundle import Bundle
from crossfeed.model.timelines import build_timelines
from crossfeed.scorer import Histories
from crossfeed.serving.answers import Recommendation, Recommendations
from crossfeed.serving.schemas import Answer, RecommendBody

__all__ = ["bare_milliseconds"]


def bare_milliseconds(bundle: Bundle, *, repeats: int = 200) -> dict[str, float]:
    """Return the medians of one pass of the encoder and of one search, without all else."""
    scorer, encoder = bundle.scorer, bundle.encoder
    history = np.random.default_rng(0).integers(bundle.catalogue.items, size=50)
    histories, domains = Histories.of([history]), np.zeros(1, np.int64)
    # Grouping the timeline is a part of encoding: no encoder reads a bare list of events.
    build_timelines(histories, domains, catalogue=bundle.catalogue, config=scorer.config)
    [user] = encoder.user_vectors(histories, domains)
    pool = bundle.catalogue.pool(0)
    vectors, biases = scorer.item_vectors[pool], scorer.item_biases[pool]
    index = bundle.indexes.get(bundle.catalogue.domains[0])
    everything = np.ones(len(vectors), np.bool_)

    def search() -> object:
        if index is not None:
            return index.search(user, everything, 10)
        scores = vectors @ user + biases
        return np.argpartition(scores, len(scores) - 10)[-10:]

    return {
        "encoder": _median(lambda: encoder.user_vectors(histories, domains), repeats),
        "search": _median(search, repeats),
    }


def _median(action: Callable[[], object], repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return round(float(np.median(taken)) * 1000, 4)


def _serve_echo() -> None:
    app = FastAPI()
    items = tuple(Recommendation(item, "shop", 0.5, "pool") for item in range(10))

    @app.post("/v1/recommend")
    def echo(body: RecommendBody) -> Answer:
        return Answer.of(Recommendations(items, "echo"), took_ms=0.0)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        config = uvicorn.Config(app, log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    _serve_echo()
