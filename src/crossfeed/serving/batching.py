"""Micro-batching: requests that wait for the encoder at the same time are one pass of it.

Nobody waits for others to come: a request that finds the encoder idle runs alone at once, and what
comes while it is busy forms the next pass.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

from crossfeed.model.onnx_encoder import OnnxEncoder
from crossfeed.model.scorer import NetworkScorer
from crossfeed.scorer import Floats, Histories, Ints

__all__ = ["BatchingEncoder"]

_MOST_ROWS = 64
"""Rows after which a pass takes no further request: it bounds how long the first one waits."""


@dataclass(eq=False)
class _Task:
    histories: Histories
    domains: Ints
    vectors: Floats | None = None
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.vectors is not None or self.error is not None


class BatchingEncoder:
    """Encodes for many threads; the thread whose turn it is does the work of those that wait."""

    def __init__(self, encoder: OnnxEncoder | NetworkScorer) -> None:
        self._encoder = encoder
        self._waiting: deque[_Task] = deque()
        self._turn = threading.Lock()

    def user_vectors(self, histories: Histories, domains: Ints) -> Floats:
        """Return (B, E) each user's vector in the target domain of its row."""
        task = _Task(histories, domains)
        self._waiting.append(task)
        # Whoever gets the turn takes tasks from the front, so that all are done in their order.
        while not task.is_done:
            with self._turn:
                if not task.is_done:
                    self._run(self._next_batch())
        if task.error is not None:
            raise task.error
        assert task.vectors is not None
        return task.vectors

    def _next_batch(self) -> list[_Task]:
        batch = [self._waiting.popleft()]
        rows = len(batch[0].domains)
        while self._waiting and rows + len(self._waiting[0].domains) <= _MOST_ROWS:
            batch.append(self._waiting.popleft())
            rows += len(batch[-1].domains)
        return batch

    def _run(self, batch: list[_Task]) -> None:
        try:
            together = Histories.of(
                [task.histories.row(row) for task in batch for row in range(len(task.histories))]
            )
            domains = np.concatenate([task.domains for task in batch])
            vectors = self._encoder.user_vectors(together, domains)
        except Exception as error:  # each who waits is told; none may wait for ever
            for task in batch:
                task.error = error
            return
        ends = np.cumsum([len(task.domains) for task in batch])
        for task, part in zip(batch, np.split(vectors, ends[:-1]), strict=True):
            task.vectors = part
