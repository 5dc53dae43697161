"""Reading a bundle: every file is checked against its hash before it is used.

Dims: I items, D domains, E width of the score's vectors.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crossfeed.bundle.format import (
    BIASES,
    CONFIDENCE_BIASES,
    DOMAINS,
    ENCODER,
    ENCODER_CHECK,
    FORMAT_VERSION,
    HISTORIES,
    ITEMS,
    REQUIRED_FILES,
    VECTORS,
    WEIGHTS,
    table_names,
    version_of,
)
from crossfeed.bundle.item_ids import ItemIds
from crossfeed.bundle.item_index import ItemIndex
from crossfeed.config import ModelConfig
from crossfeed.errors import BundleError
from crossfeed.files import file_hash
from crossfeed.outputs import kind_told
from crossfeed.scorer import Catalogue, Floats, Ints

if TYPE_CHECKING:  # torch is loaded with the scorer, not before
    from crossfeed.model.network_scorer import NetworkScorer
    from crossfeed.model.onnx.runtime import OnnxEncoder

__all__ = ["Bundle"]


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files have been verified."""

    path: Path
    about: dict[str, Any]  # Any: JSON
    """The content of bundle.json."""
    catalogue: Catalogue
    item_ids: pa.Array
    """(I,) the log's item ids; unique within a domain."""
    clicks: Ints
    """(I,) clicks of each item."""
    recent_clicks: Ints
    """(I,) its clicks among the newest tenth of its domain's."""
    by_id: Ints
    """(I,) item indices, each domain's sorted by id."""

    def __repr__(self) -> str:
        """Return the place and the sizes, not the arrays."""
        domains = ", ".join(self.catalogue.domains)
        return f"<Bundle '{self.path}': {self.catalogue.items:,} items, domains: {domains}>"

    @classmethod
    def load(cls, path: Path | str) -> Bundle:
        """Open a bundle after checking every file against its hash.

        Raises:
            BundleError: it is not a bundle, incomplete, changed since it was written, or of another
                format version.
        """
        path = Path(path)
        about = _read_about(path)
        _verify(path, about)
        items = pa.ipc.open_file(pa.memory_map(str(path / ITEMS))).read_all()
        domains = pq.read_table(path / DOMAINS)
        sizes = domains["items"].to_numpy()
        catalogue = Catalogue(
            domains=tuple(domains["domain"].to_pylist()),
            offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            trained=domains["trained"].to_numpy().astype(np.int64),
        )
        return cls(
            path=path,
            about=about,
            catalogue=catalogue,
            item_ids=_column(items, "item_id"),
            clicks=_column(items, "clicks").to_numpy(),
            recent_clicks=_column(items, "recent_clicks").to_numpy(),
            by_id=_column(items, "by_id").to_numpy(),
        )

    @staticmethod
    def stated_version(path: Path) -> str:
        """Return the version of a bundle without a look into its other files.

        Raises:
            BundleError: its `bundle.json` is missing, damaged or of another format version.
        """
        return str(_read_about(path)["version"])

    @property
    def version(self) -> str:
        """Return a hash of the model's whole content, which identifies it."""
        return str(self.about["version"])

    @property
    def card(self) -> dict[str, Any]:  # Any: JSON
        """Return facts about the model: figures, data, settings of training."""
        return dict(self.about["card"])

    @property
    def held_back(self) -> tuple[str, ...]:
        """Return the domains that popularity serves instead of the model."""
        return tuple(self.about["held_back"])

    def open_files(self) -> None:
        """Open all files now: the folder may be replaced before their first use."""
        _ = self.item_vectors, self.item_biases, self.indexes, self.encoder
        if self.fused:
            _ = self._confidence_biases, self._personal_share
        if self.has_histories:
            _ = self._histories_map

    @cached_property
    def user_id_type(self) -> pa.DataType:
        """Return the type of the log's user ids: string or int64."""
        return _id_type(self.about["user_id_type"])

    @cached_property
    def item_id_type(self) -> pa.DataType:
        """Return the type of the log's item ids: string or int64."""
        return self.item_ids.type

    @cached_property
    def config(self) -> ModelConfig:
        """Return the settings of the networks."""
        return ModelConfig.model_validate(self.about["model"])

    @cached_property
    def item_vectors(self) -> Floats:
        """Return (I, E) one vector per item; a read-only map of its file."""
        return _mapped(self.path / VECTORS)

    @cached_property
    def item_biases(self) -> Floats:
        """Return (I,) one bias per item; a read-only map of its file."""
        return _mapped(self.path / BIASES)

    @property
    def fused(self) -> bool:
        """Return whether the generator's output is a part of the score."""
        return self.config.fused

    def confidence_logits(self, user: Floats, items: Ints) -> Floats:
        """Return (N,) the generator's output for items; its softmax is the confidence in them.

        Args:
            user: (E,) a user's vector, fused.
            items: (N,) item indices of the user's target domain.
        """
        width = self.config.width
        own = user[width:] / (np.float32(self.config.output_share) * self._personal_share)
        return self.item_vectors[items, width:] @ own + self._confidence_biases[items]

    @cached_property
    def _confidence_biases(self) -> Floats:
        return self._weight(CONFIDENCE_BIASES)

    @cached_property
    def _personal_share(self) -> np.float32:
        return np.float32(self._weight("personal_share"))

    def _weight(self, name: str) -> Floats:
        from safetensors import safe_open

        with safe_open(self.path / WEIGHTS, framework="numpy") as weights:
            return np.asarray(weights.get_tensor(name), dtype=np.float32)

    @cached_property
    def scorer(self) -> NetworkScorer:
        """Return the score that the bundle was made from, in torch."""
        import torch
        from safetensors.torch import load_file

        from crossfeed.model.network_scorer import NetworkScorer

        weights, width = load_file(self.path / WEIGHTS), self.config.width
        weights.pop(CONFIDENCE_BIASES, None)
        # A private map: torch wants writable memory, although nothing writes to it.
        vectors = torch.from_numpy(np.load(self.path / VECTORS, mmap_mode="c"))
        items = self.catalogue.trained_items
        rows = slice(None) if len(items) == len(vectors) else torch.from_numpy(items)
        for place, name in enumerate(table_names(self.config, self.catalogue)):
            weights[name] = vectors[rows, place * width : (place + 1) * width]
        return NetworkScorer.from_state(self.catalogue, self.config, weights)

    @cached_property
    def encoder(self) -> OnnxEncoder | NetworkScorer:
        """Return the exported graph if it gives the right vectors, else torch's encoder."""
        from crossfeed.model.onnx.runtime import open_encoder

        if not (self.path / ENCODER).exists():
            return self.scorer
        found = open_encoder(
            self.path / ENCODER,
            expected=np.load(self.path / ENCODER_CHECK),
            catalogue=self.catalogue,
            config=self.config,
            item_vectors=self.item_vectors,
        )
        return found or self.scorer

    @cached_property
    def indexes(self) -> dict[str, ItemIndex]:
        """Return domain -> its index, if its recall is high enough; empty without faiss."""
        if importlib.util.find_spec("faiss") is None:
            return {}
        return {
            name: ItemIndex(self.path / facts["file"], probes=facts["probes"])
            for name, facts in self.about["indexes"].items()
            if facts["file"] is not None
        }

    @cached_property
    def ids(self) -> ItemIds:
        """Return the look-ups between items and their ids."""
        return ItemIds(self.item_ids, self.by_id, self.catalogue)

    def item_indices(self, ids: pa.Array, domain: int) -> Ints:
        """Return the item index of each id in a domain; -1 if the domain has no such item."""
        first, last = self.catalogue.offsets[domain : domain + 2]
        found = pc.index_in(ids, value_set=self.item_ids.slice(first, last - first))
        return np.asarray(pc.add(found.cast(pa.int64()), int(first)).fill_null(-1))

    @property
    def has_histories(self) -> bool:
        """Return whether the bundle holds the users' histories."""
        return HISTORIES in self.about["files"]

    def histories(self) -> Iterator[pa.RecordBatch]:
        """Yield user_id, item_id, domain, timestamp (ms), each user's oldest first."""
        if self.has_histories:
            with pq.ParquetFile(pa.BufferReader(self._histories_map)) as file:
                yield from file.iter_batches()

    @cached_property
    def _histories_map(self) -> pa.Buffer:
        return pa.memory_map(str(self.path / HISTORIES)).read_buffer()


def _read_about(path: Path) -> dict[str, Any]:  # Any: JSON
    try:
        about = json.loads((path / "bundle.json").read_text("utf-8"))
        version = about["format_version"]
        files, stated = about["files"], about["version"]
    except OSError:
        raise BundleError(
            f"'{path}' is not a bundle: it has no bundle.json{kind_told(path)}",
            hint="make one with: crossfeed export RUN --out BUNDLE",
        ) from None
    except (ValueError, KeyError, TypeError):
        raise _damaged(path, "bundle.json cannot be read") from None
    if version != FORMAT_VERSION:
        raise BundleError(
            f"the bundle '{path}' has format version {version}; this crossfeed reads "
            f"{FORMAT_VERSION}",
            hint="export it again from its run",
        )
    missing = [name for name in REQUIRED_FILES if name not in files]
    if missing:
        raise _damaged(path, f"bundle.json does not list {missing[0]}")
    if stated != version_of({key: value for key, value in about.items() if key != "version"}):
        raise _damaged(path, "bundle.json was changed after it was written")
    return dict(about)


def _verify(path: Path, about: Mapping[str, Any]) -> None:  # Any: JSON
    """Check that every listed file is there, whole and unchanged."""
    for name, stated in about["files"].items():
        file = path / name
        if Path(name).name != name or not file.is_file():
            raise _damaged(path, f"{name} is missing")
        try:
            size, found = file.stat().st_size, file_hash(file)
        except OSError as error:
            raise _damaged(path, f"{name} cannot be read: {error.strerror}") from None
        if size != stated["bytes"]:
            raise _damaged(path, f"{name} has {size} bytes instead of {stated['bytes']}")
        if found != stated["sha256"]:
            raise _damaged(path, f"{name} was changed after it was written")


def _id_type(name: str) -> pa.DataType:
    return pa.int64() if name == "int64" else pa.string()


def _mapped(file: Path) -> Floats:
    # A plain view of the map: numpy's own class for maps costs time at every use.
    return np.asarray(np.load(file, mmap_mode="r"))


def _column(table: pa.Table, name: str) -> pa.Array:
    """Return a column as one piece of the map; a table without rows has no piece."""
    chunks = table[name].chunks
    return chunks[0] if len(chunks) == 1 else table[name].combine_chunks()


def _damaged(path: Path, what: str) -> BundleError:
    return BundleError(
        f"the bundle '{path}' is damaged: {what}", hint="copy or export it again; do not edit it"
    )
