"""The user side of the score in ONNX Runtime: what encodes users in service.

Dims: B rows, T items, E width of the score's vectors.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import numpy as np

from crossfeed.config import ModelConfig
from crossfeed.model.grouping import Grouped, group
from crossfeed.model.scorer import NetworkScorer
from crossfeed.scorer import Catalogue, Floats, Histories, Ints

__all__ = [
    "GRAPH_INPUTS",
    "TOLERANCE",
    "OnnxEncoder",
    "largest_difference",
    "open_encoder",
    "probes",
]

_log = logging.getLogger(__name__)

GRAPH_INPUTS = ("vectors", *Grouped._fields[1:])
"""The vectors (T, E) of the items that a batch reads, then its timelines without the items."""

TOLERANCE = 1e-4
"""By how much a user's vector may differ from the eager one."""

_ROWS_AT_ONCE = 1024
_LENGTHS = (0, 1, 2, 3, 5, 9, 17, 33, 65, 129)


class OnnxEncoder:
    """Encodes users by an exported graph."""

    def __init__(
        self, graph: bytes, *, catalogue: Catalogue, config: ModelConfig, item_vectors: Floats
    ) -> None:
        """Load a graph that `export_encoder` made.

        Args:
            graph: the graph.
            catalogue: of the model that it was made from.
            config: of that model.
            item_vectors: (I, E) of that model.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # One row takes less than waking another thread; several requests are one batch.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # what it optimises is of no interest
        self._session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        # Of the inputs, the exporter drops those that a network does not read.
        self._wanted = {given.name for given in self._session.get_inputs()} - {"vectors"}
        self._catalogue, self._config, self._item_vectors = catalogue, config, item_vectors

    def user_vectors(self, histories: Histories, domains: Ints) -> Floats:
        """Return (B, E) each user's vector in the target domain of its row."""
        chunks = [
            self._encode(histories.rows_between(first, first + _ROWS_AT_ONCE), domains[first:])
            for first in range(0, len(histories), _ROWS_AT_ONCE)
        ]
        width = self._item_vectors.shape[1]
        return np.concatenate([np.zeros((0, width), np.float32), *chunks])

    def _encode(self, histories: Histories, domains: Ints) -> Floats:
        grouped = group(
            histories, domains[: len(histories)], catalogue=self._catalogue, config=self._config
        )
        given = {name: getattr(grouped, name) for name in self._wanted}
        given["vectors"] = self._item_vectors[grouped.items]
        [users] = self._session.run(None, given)
        return np.asarray(users, dtype=np.float32)


def open_encoder(file: Path, scorer: NetworkScorer) -> OnnxEncoder | NetworkScorer:
    """Return the encoder of an exported graph; the scorer itself where that is not to be had.

    The graph must give the scorer's vectors here and now, not only where it was exported: another
    version of the runtime or another processor may compute otherwise.

    Args:
        file: the graph; it may be missing.
        scorer: what the graph was made from.
    """
    if not file.exists() or importlib.util.find_spec("onnxruntime") is None:
        return scorer
    try:
        encoder = OnnxEncoder(
            file.read_bytes(),
            catalogue=scorer.catalogue,
            config=scorer.config,
            item_vectors=scorer.item_vectors,
        )
        difference = largest_difference(encoder, scorer)
    except Exception as error:  # a runtime may raise anything; the scorer serves as well
        _log.warning("torch encodes users: ONNX Runtime cannot use '%s': %s", file, error)
        return scorer
    if not difference <= TOLERANCE:
        _log.warning("torch encodes users: '%s' is off by %g", file, difference)
        return scorer
    return encoder


def probes(catalogue: Catalogue) -> tuple[Histories, Ints]:
    """Return made-up histories of many lengths with a target domain each; always the same."""
    draws = np.random.default_rng(0)
    known = np.concatenate(
        [np.arange(catalogue.items)[catalogue.pool(d)] for d in range(len(catalogue.domains))]
    )
    rows = [draws.choice(known, length) if len(known) else known for length in _LENGTHS]
    return Histories.of(rows), draws.integers(len(catalogue.domains), size=len(rows))


def largest_difference(encoder: OnnxEncoder, scorer: NetworkScorer) -> float:
    """Return by how much any number of a user's vector differs from the eager one, on probes.

    Asked for all together and one by one, as both happen in service.
    """
    histories, domains = probes(scorer.catalogue)
    eager = scorer.user_vectors(histories, domains)
    alone = [
        encoder.user_vectors(histories.rows_between(row, row + 1), domains[row : row + 1])
        for row in range(len(histories))
    ]
    together = encoder.user_vectors(histories, domains)
    differences = np.abs(np.stack([together, np.concatenate(alone)]) - eager)
    return float(np.max(differences, initial=0.0))  # not finite where either is not
