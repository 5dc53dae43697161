"""Writing a bundle; it appears when it is complete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crossfeed import __version__
from crossfeed.bundle.format import (
    BIASES,
    CONFIDENCE_BIASES,
    DOMAINS,
    ENCODER,
    ENCODER_CHECK,
    FORMAT_VERSION,
    HISTORIES,
    ITEMS,
    VECTORS,
    WEIGHTS,
    table_names,
    version_of,
)
from crossfeed.bundle.item_ids import sorted_places
from crossfeed.bundle.item_index import RECALL_AT, BuiltIndex
from crossfeed.files import atomic_folder, file_hash, write_json
from crossfeed.model.onnx.probes import probes
from crossfeed.outputs import BUNDLE
from crossfeed.scorer import Ints, Moment

if TYPE_CHECKING:  # torch is loaded with the scorer, not before
    from crossfeed.model.network_scorer import NetworkScorer

__all__ = ["BundleContents", "write_bundle"]


@dataclass(frozen=True)
class BundleContents:
    """The contents of a bundle."""

    scorer: NetworkScorer
    item_ids: pa.ChunkedArray
    """(I,) the log's item ids, strings or int64."""
    user_id_type: pa.DataType
    """The type of the log's user ids: string or int64."""
    clicks: Ints
    """(I,) clicks of each item, for the fallback by popularity."""
    recent_clicks: Ints
    """(I,) its clicks among the newest tenth of its domain's."""
    moment: Moment
    """The demand that the biases hold."""
    histories: Iterable[pa.RecordBatch] | None
    """user_id, item_id, domain, timestamp (ms) of all clicks; None leaves them out."""
    card: Mapping[str, object]
    """Facts about the model: figures, data, settings of training; plain JSON values."""
    encoder: bytes | None = None
    """The user side of the score as an ONNX graph; None leaves it out."""
    indexes: Mapping[str, BuiltIndex] = field(default_factory=dict)
    """Domain -> its approximate index, even one with too low recall."""
    held_back: Sequence[str] = ()
    """Domains served by popularity, because the model is not good enough there."""


def write_bundle(out: Path, contents: BundleContents, *, overwrite: bool = False) -> Path:
    """Write a bundle; it appears when it is complete.

    Raises:
        OutputError: `out` exists and may not be replaced, or cannot be written.
    """
    scorer = contents.scorer
    with atomic_folder(out, BUNDLE, overwrite=overwrite) as folder:
        _write_scorer(folder, scorer, contents.moment)
        _write_tables(folder, contents)
        if contents.encoder is not None:
            (folder / ENCODER).write_bytes(contents.encoder)
            np.save(folder / ENCODER_CHECK, scorer.user_vectors(*probes(scorer.catalogue)))
        indexes = _write_indexes(folder, contents)
        if contents.histories is not None:
            _write_histories(folder / HISTORIES, contents)
        files = {
            file.name: {"bytes": file.stat().st_size, "sha256": file_hash(file)}
            for file in sorted(folder.iterdir())
        }
        about = {
            "format_version": FORMAT_VERSION,
            "crossfeed": __version__,
            "model": scorer.config.model_dump(mode="json"),
            "user_id_type": str(contents.user_id_type),
            "item_id_type": str(contents.item_ids.type),
            "card": dict(contents.card),
            "held_back": list(contents.held_back),
            "indexes": indexes,
            "files": files,
        }
        write_json(folder / "bundle.json", {**about, "version": version_of(about)})
    return out


def _write_indexes(folder: Path, contents: BundleContents) -> dict[str, dict[str, Any]]:
    """Write the good indexes; return the measurements of all."""  # Any: JSON
    measured = {}
    for name, index in contents.indexes.items():
        file = f"index-{contents.scorer.catalogue.domain_index(name)}.faiss"
        if index.data is not None:
            (folder / file).write_bytes(index.data)
        measured[name] = {
            "file": None if index.data is None else file,
            "lists": index.lists,
            "probes": index.probes,
            f"recall@{RECALL_AT}": index.recall,
        }
    return measured


def _write_scorer(folder: Path, scorer: NetworkScorer, moment: Moment) -> None:
    """Write the item side as served, and all other weights as trained."""
    import torch
    from safetensors.torch import save

    vectors = scorer.catalogue.of_all_items(scorer.item_vectors)
    np.save(folder / VECTORS, np.ascontiguousarray(vectors))
    domains = range(len(scorer.catalogue.domains))
    np.save(folder / BIASES, np.concatenate([scorer.item_biases(d, moment) for d in domains]))
    written = table_names(scorer.config, scorer.catalogue)
    rest = {name: value for name, value in scorer.served_state().items() if name not in written}
    if scorer.config.fused:
        confidence = [scorer.confidence_biases(d, moment) for d in domains]
        rest[CONFIDENCE_BIASES] = torch.from_numpy(np.concatenate(confidence))
    weights = save({name: value.contiguous() for name, value in rest.items()})
    (folder / WEIGHTS).write_bytes(weights)  # Python's errors name the problem


def _write_tables(folder: Path, contents: BundleContents) -> None:
    catalogue = contents.scorer.catalogue
    sizes = np.diff(catalogue.offsets)
    names = pa.array(catalogue.domains, pa.string())
    ids, domains = contents.item_ids.combine_chunks(), np.repeat(np.arange(len(sizes)), sizes)
    items = pa.record_batch(
        {
            "item_id": ids,
            "domain": pa.DictionaryArray.from_arrays(domains, names),
            "clicks": pa.array(contents.clicks, pa.int64()),
            "recent_clicks": pa.array(contents.recent_clicks, pa.int64()),
            "by_id": sorted_places(ids, catalogue),
        }
    )
    with pa.ipc.new_file(folder / ITEMS, items.schema) as writer:
        writer.write_batch(items)  # one batch, so that each column is one piece of memory
    about = pa.table({"domain": names, "items": sizes, "trained": catalogue.trained})
    pq.write_table(about, folder / DOMAINS)


def _write_histories(file: Path, contents: BundleContents) -> None:
    schema = pa.schema(
        {
            "user_id": contents.user_id_type,
            "item_id": contents.item_ids.type,
            "domain": pa.string(),
            "timestamp": pa.int64(),
        }
    )
    with pq.ParquetWriter(file, schema) as writer:
        for batch in contents.histories or ():
            writer.write_batch(batch)
