"""The user side of the score in ONNX Runtime, which encodes users in service.

Dims: B rows, T items, E width of the score's vectors.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import numpy as np

from crossfeed.config import ModelConfig
from crossfeed.model.onnx.probes import probes
from crossfeed.model.users.grouping import Grouped, encoded, group
from crossfeed.scorer import Catalogue, Floats, Histories, Ints

__all__ = [
    "GRAPH_INPUTS",
    "TOLERANCE",
    "OnnxEncoder",
    "largest_difference",
    "open_encoder",
]

_log = logging.getLogger(__name__)

GRAPH_INPUTS = ("vectors", *Grouped._fields[1:])
"""The vectors (T, E) of the items that a batch reads, then its timelines without the items."""

TOLERANCE = 1e-4
"""Largest allowed difference of a user's vector from torch's."""


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
        # Waking another thread takes longer than one row; several requests are one batch.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # hide its messages on optimisation
        self._session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        # The exporter drops inputs that a network does not read.
        self._wanted = {given.name for given in self._session.get_inputs()} - {"vectors"}
        self.catalogue, self._config, self._item_vectors = catalogue, config, item_vectors
        self._items = catalogue.trained_items

    def user_vectors(self, histories: Histories, domains: Ints) -> Floats:
        """Return (B, E) each user's vector in the target domain of its row."""
        return encoded(self._encode, histories, domains, width=self._item_vectors.shape[1])

    def _encode(self, histories: Histories, domains: Ints) -> Floats:
        grouped = group(histories, domains, catalogue=self.catalogue, config=self._config)
        given = {name: getattr(grouped, name) for name in self._wanted}
        given["vectors"] = self._item_vectors[self._items[grouped.item_rows]]
        [users] = self._session.run(None, given)
        return np.asarray(users, dtype=np.float32)


def open_encoder(
    file: Path,
    *,
    expected: Floats,
    catalogue: Catalogue,
    config: ModelConfig,
    item_vectors: Floats,
) -> OnnxEncoder | None:
    """Return the encoder of an exported graph, or None if it cannot be used.

    The graph must give torch's vectors on this machine, too: another version of the runtime or
    another processor may compute differently.

    Args:
        file: the graph.
        expected: (P, E) torch's vectors of the probes, made at export.
        catalogue: of the model.
        config: of the model.
        item_vectors: (I, E) of the model.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        _log.warning("torch encodes users: onnxruntime is not installed")
        return None
    try:
        encoder = OnnxEncoder(
            file.read_bytes(), catalogue=catalogue, config=config, item_vectors=item_vectors
        )
        difference = largest_difference(encoder, expected)
    except Exception as error:  # a runtime may raise anything; torch can serve instead
        _log.warning("torch encodes users: ONNX Runtime cannot use '%s': %s", file, error)
        return None
    if not difference <= TOLERANCE:
        _log.warning("torch encodes users: '%s' is off by %g", file, difference)
        return None
    return encoder


def largest_difference(encoder: OnnxEncoder, expected: Floats) -> float:
    """Return the largest difference of any number from the expected vectors of the probes.

    The probes are encoded all together and one by one, as both happen in service.
    """
    histories, domains = probes(encoder.catalogue)
    alone = [
        encoder.user_vectors(histories.rows_between(row, row + 1), domains[row : row + 1])
        for row in range(len(histories))
    ]
    together = encoder.user_vectors(histories, domains)
    differences = np.abs(np.stack([together, np.concatenate(alone)]) - expected)
    return float(np.max(differences, initial=0.0))  # not finite if either is not
