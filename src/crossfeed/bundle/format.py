"""The bundle: one folder that serves on a laptop and on a server.

    bundle.json                format version, model, metrics card, size and hash of every file
    item_vectors.npy           (I, E) float32, the item side of the score; zero if not trained
    item_biases.npy            (I,) float32, with the demand as of the export
    weights.safetensors        all other tensors of the players that are served
    user_encoder.onnx          the user side of the score for ONNX Runtime; can be left out
    encoder_check.npy          (P, E) the expected output of that graph for made-up histories
    index-D.faiss              an approximate index of the large domain with index D
    items.arrow                item_id, domain, clicks, recent_clicks, by_id (the domain's items in
                               the order of their ids); the row is the item's index
    domains.parquet            domain, items, trained; the row is the domain's index
    histories.parquet          user_id, item_id, domain, timestamp (ms); can be left out

Nothing in it is pickled, and every file is checked against its hash before it is used. Files that
grow with the catalogue are mapped into memory, so all processes of a machine share one copy.

Dims: I items, D domains, E width of the score's vectors, P probes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from crossfeed.config import ModelConfig
from crossfeed.scorer import Catalogue

__all__ = [
    "BIASES",
    "CONFIDENCE_BIASES",
    "DOMAINS",
    "ENCODER",
    "ENCODER_CHECK",
    "FORMAT_VERSION",
    "HISTORIES",
    "ITEMS",
    "REQUIRED_FILES",
    "VECTORS",
    "WEIGHTS",
    "table_names",
    "version_of",
]

FORMAT_VERSION = 6

VECTORS, BIASES = "item_vectors.npy", "item_biases.npy"
WEIGHTS = "weights.safetensors"
ITEMS, DOMAINS = "items.arrow", "domains.parquet"
REQUIRED_FILES = (VECTORS, BIASES, WEIGHTS, ITEMS, DOMAINS)
HISTORIES = "histories.parquet"
ENCODER, ENCODER_CHECK = "user_encoder.onnx", "encoder_check.npy"

_PLAYERS_TABLES = (
    "discriminator.scoring_layer.vectors.weight",
    "generator.output_layer.vectors.weight",
)
CONFIDENCE_BIASES = "confidence_biases"


def version_of(about: Mapping[str, object]) -> str:
    """Return a short hash of bundle.json, which holds the hashes of all files."""
    text = json.dumps(about, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def table_names(config: ModelConfig, catalogue: Catalogue) -> tuple[str, ...]:
    """Return the players' tables that are the item vectors, side by side."""
    if config.hashes(catalogue.rows):
        return ()  # the vectors are computed from them
    return _PLAYERS_TABLES if config.fused else _PLAYERS_TABLES[:1]
