"""The bundle: one folder that serves on a laptop and on a server.

    bundle.json                format version, model, metrics card, size and hash of every file
    item_vectors.npy           (I, E) float32, the item side of the score
    item_biases.npy            (I,) float32
    weights.safetensors        all other tensors of the players
    user_encoder.onnx          the user side of the score for ONNX Runtime; can be left out
    encoder_check.npy          (P, E) what that graph must give for made-up histories
    index-D.faiss              an approximate index of the large domain with index D
    items.arrow                item_id, domain, clicks, recent_clicks, by_id (the domain's items in
                               the order of their ids); the row is the item's index
    domains.parquet            domain, items, known; the row is the domain's index
    histories.parquet          user_id, item_id, domain, timestamp (ms); can be left out

Nothing in it is pickled, and every file is checked against its hash before it is used. What grows
with the catalogue is mapped into memory, not read: all processes of a machine share one copy.

Dims: I items, D domains, E width of the score's vectors, P probes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crossfeed import __version__
from crossfeed.config import ModelConfig
from crossfeed.errors import BundleError
from crossfeed.files import atomic_folder, file_hash, write_json
from crossfeed.item_ids import ItemIds, sorted_places
from crossfeed.item_index import RECALL_AT, BuiltIndex, ItemIndex
from crossfeed.model.probes import probes
from crossfeed.outputs import BUNDLE
from crossfeed.scorer import Catalogue, Floats, Ints

if TYPE_CHECKING:  # torch is loaded with the scorer, not before
    from crossfeed.model.onnx_encoder import OnnxEncoder
    from crossfeed.model.scorer import NetworkScorer

__all__ = ["FORMAT_VERSION", "Bundle", "BundleContents", "version_of", "write_bundle"]

FORMAT_VERSION = 4

_VECTORS, _BIASES = "item_vectors.npy", "item_biases.npy"
_WEIGHTS = "weights.safetensors"
_ITEMS, _DOMAINS = "items.arrow", "domains.parquet"
_REQUIRED = (_VECTORS, _BIASES, _WEIGHTS, _ITEMS, _DOMAINS)
_HISTORIES = "histories.parquet"
_ENCODER, _ENCODER_CHECK = "user_encoder.onnx", "encoder_check.npy"

_PLAYERS_TABLES = (
    "discriminator.scoring_layer.vectors.weight",
    "generator.output_layer.vectors.weight",
)
_CONFIDENCE_BIASES = "confidence_biases"


@dataclass(frozen=True)
class BundleContents:
    """What a bundle is made from."""

    scorer: NetworkScorer
    item_ids: pa.ChunkedArray
    """(I,) the log's item ids, strings or int64."""
    user_id_type: pa.DataType
    """The type of the log's user ids: string or int64."""
    clicks: Ints
    """(I,) clicks of each item, for the fallback by popularity."""
    recent_clicks: Ints
    """(I,) those among the newest tenth of its domain's clicks."""
    histories: Iterable[pa.RecordBatch] | None
    """user_id, item_id, domain, timestamp (ms) of all that users did; None leaves it out."""
    card: Mapping[str, object]
    """What is known of the model: figures, data, settings of training; plain JSON values."""
    encoder: bytes | None = None
    """The user side of the score as an ONNX graph; None leaves it out."""
    indexes: Mapping[str, BuiltIndex] = field(default_factory=dict)
    """Domain -> its approximate index, also one that measured too low to be used."""
    held_back: Sequence[str] = ()
    """Domains that are served by popularity, because the model is not good enough there."""


def write_bundle(out: Path, contents: BundleContents, *, overwrite: bool = False) -> Path:
    """Write a bundle; it appears when it is complete.

    Raises:
        OutputError: `out` exists and may not be replaced, or cannot be written.
    """
    scorer = contents.scorer
    with atomic_folder(out, BUNDLE, overwrite=overwrite) as folder:
        _write_scorer(folder, scorer)
        _write_tables(folder, contents)
        if contents.encoder is not None:
            (folder / _ENCODER).write_bytes(contents.encoder)
            np.save(folder / _ENCODER_CHECK, scorer.user_vectors(*probes(scorer.catalogue)))
        indexes = _write_indexes(folder, contents)
        if contents.histories is not None:
            _write_histories(folder / _HISTORIES, contents)
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


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files have been verified."""

    path: Path
    about: dict[str, Any]  # Any: JSON
    """What bundle.json says."""
    catalogue: Catalogue
    item_ids: pa.Array
    """(I,) the log's item ids; unique within a domain."""
    clicks: Ints
    """(I,) clicks of each item."""
    recent_clicks: Ints
    """(I,) those among the newest tenth of its domain's clicks."""
    by_id: Ints
    """(I,) item indices, those of each domain in the order of its ids."""

    @classmethod
    def load(cls, path: Path | str) -> Bundle:
        """Open a bundle after checking every file against its hash.

        Raises:
            BundleError: it is no bundle, incomplete, changed since it was written, or of another
                format version.
        """
        path = Path(path)
        about = _read_about(path)
        _verify(path, about)
        items = pa.ipc.open_file(pa.memory_map(str(path / _ITEMS))).read_all()
        domains = pq.read_table(path / _DOMAINS)
        sizes = domains["items"].to_numpy()
        catalogue = Catalogue(
            domains=tuple(domains["domain"].to_pylist()),
            offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            known=domains["known"].to_numpy().astype(np.int64),
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

    @property
    def version(self) -> str:
        """Return what tells this model from others: a hash of all it consists of."""
        return str(self.about["version"])

    @property
    def card(self) -> dict[str, Any]:  # Any: JSON
        """Return what is known of the model: figures, data, settings of training."""
        return dict(self.about["card"])

    @property
    def held_back(self) -> tuple[str, ...]:
        """Return the domains that are served by popularity instead of the model."""
        return tuple(self.about["held_back"])

    def open_files(self) -> None:
        """Open what is else opened where it is first needed: its folder may be replaced by then."""
        _ = self.item_vectors, self.item_biases, self.indexes, self.encoder
        if self.fused:
            _ = self._confidence_biases
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
        return _mapped(self.path / _VECTORS)

    @cached_property
    def item_biases(self) -> Floats:
        """Return (I,) one bias per item; a read-only map of its file."""
        return _mapped(self.path / _BIASES)

    @property
    def fused(self) -> bool:
        """Return whether the generator's output is a part of the score."""
        return self.config.fuse != "none"

    def confidence_logits(self, user: Floats, items: Ints) -> Floats:
        """Return (N,) the generator's output for items; its softmax is the confidence in them.

        Args:
            user: (E,) a user's vector, fused.
            items: (N,) item indices of the user's target domain.
        """
        width = self.config.width
        return self.item_vectors[items, width:] @ user[width:] + self._confidence_biases[items]

    @cached_property
    def _confidence_biases(self) -> Floats:
        from safetensors import safe_open

        with safe_open(self.path / _WEIGHTS, framework="numpy") as weights:
            return np.asarray(weights.get_tensor(_CONFIDENCE_BIASES), dtype=np.float32)

    @cached_property
    def scorer(self) -> NetworkScorer:
        """Return the score that the bundle was made from, in torch."""
        import torch
        from safetensors.torch import load_file

        from crossfeed.model.scorer import NetworkScorer

        weights, width = load_file(self.path / _WEIGHTS), self.config.width
        del weights[_CONFIDENCE_BIASES]
        # A private map: torch wants memory that may be written, and nothing is.
        vectors = torch.from_numpy(np.load(self.path / _VECTORS, mmap_mode="c"))
        for place, name in enumerate(_tables(self.config, self.catalogue)):
            weights[name] = vectors[:, place * width : (place + 1) * width]
        return NetworkScorer.from_state(self.catalogue, self.config, weights)

    @cached_property
    def encoder(self) -> OnnxEncoder | NetworkScorer:
        """Return what encodes users: the exported graph if it does what it should, else torch."""
        from crossfeed.model.onnx_encoder import open_encoder

        if not (self.path / _ENCODER).exists():
            return self.scorer
        found = open_encoder(
            self.path / _ENCODER,
            expected=np.load(self.path / _ENCODER_CHECK),
            catalogue=self.catalogue,
            config=self.config,
            item_vectors=self.item_vectors,
        )
        return found or self.scorer

    @cached_property
    def indexes(self) -> dict[str, ItemIndex]:
        """Return by domain the index that was found good enough; none where faiss is missing."""
        if importlib.util.find_spec("faiss") is None:
            return {}
        return {
            name: ItemIndex(self.path / facts["file"], probes=facts["probes"])
            for name, facts in self.about["indexes"].items()
            if facts["file"] is not None
        }

    @cached_property
    def ids(self) -> ItemIds:
        """Return what finds items by their ids, one by one, and their ids."""
        return ItemIds(self.item_ids, self.by_id, self.catalogue)

    def item_indices(self, ids: pa.Array, domain: int) -> Ints:
        """Return the item index of each id in a domain; -1 where the domain has no such item."""
        first, last = self.catalogue.offsets[domain : domain + 2]
        found = pc.index_in(ids, value_set=self.item_ids.slice(first, last - first))
        return np.asarray(pc.add(found.cast(pa.int64()), int(first)).fill_null(-1))

    @property
    def has_histories(self) -> bool:
        """Return whether the bundle holds what users did."""
        return _HISTORIES in self.about["files"]

    def histories(self) -> Iterator[pa.RecordBatch]:
        """Yield user_id, item_id, domain, timestamp (ms), each user's oldest first."""
        if self.has_histories:
            with pq.ParquetFile(pa.BufferReader(self._histories_map)) as file:
                yield from file.iter_batches()

    @cached_property
    def _histories_map(self) -> pa.Buffer:
        return pa.memory_map(str(self.path / _HISTORIES)).read_buffer()


def _write_indexes(folder: Path, contents: BundleContents) -> dict[str, dict[str, Any]]:
    """Write the indexes that are good enough; return what was measured of each."""  # Any: JSON
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


def _write_scorer(folder: Path, scorer: NetworkScorer) -> None:
    """Write the item side as it is served, and what is not in it as it was trained."""
    from safetensors.torch import save

    np.save(folder / _VECTORS, np.ascontiguousarray(scorer.item_vectors))
    np.save(folder / _BIASES, scorer.item_biases)
    written = _tables(scorer.config, scorer.catalogue)
    rest = {name: value for name, value in scorer.state().items() if name not in written}
    rest[_CONFIDENCE_BIASES] = scorer.players.confidence_biases().cpu()
    weights = save({name: value.contiguous() for name, value in rest.items()})
    (folder / _WEIGHTS).write_bytes(weights)  # an error of Python's says what is wrong


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
    with pa.ipc.new_file(folder / _ITEMS, items.schema) as writer:
        writer.write_batch(items)  # one batch, so that each column is one piece of memory
    about = pa.table({"domain": names, "items": sizes, "known": catalogue.known})
    pq.write_table(about, folder / _DOMAINS)


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


def _read_about(path: Path) -> dict[str, Any]:  # Any: JSON
    try:
        about = json.loads((path / "bundle.json").read_text("utf-8"))
        version = about["format_version"]
        files, stated = about["files"], about["version"]
    except OSError:
        raise BundleError(
            f"'{path}' is not a bundle: it has no bundle.json",
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
    missing = [name for name in _REQUIRED if name not in files]
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
        size = file.stat().st_size
        if size != stated["bytes"]:
            raise _damaged(path, f"{name} has {size} bytes instead of {stated['bytes']}")
        if file_hash(file) != stated["sha256"]:
            raise _damaged(path, f"{name} was changed after it was written")


def version_of(about: Mapping[str, object]) -> str:
    """Return a short hash of what bundle.json says, the files' hashes included."""
    text = json.dumps(about, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def _id_type(name: str) -> pa.DataType:
    return pa.int64() if name == "int64" else pa.string()


def _tables(config: ModelConfig, catalogue: Catalogue) -> tuple[str, ...]:
    """Return the players' tables that are the item vectors, side by side."""
    if config.hashes(catalogue.items):
        return ()  # they are what the vectors are made of
    return _PLAYERS_TABLES[:1] if config.fuse == "none" else _PLAYERS_TABLES


def _mapped(file: Path) -> Floats:
    # A plain view of the map: numpy's own class for maps costs time at every use.
    return np.asarray(np.load(file, mmap_mode="r"))


def _column(table: pa.Table, name: str) -> pa.Array:
    """Return a column that lies in the map in one piece; a table without rows has no piece."""
    chunks = table[name].chunks
    return chunks[0] if len(chunks) == 1 else table[name].combine_chunks()


def _damaged(path: Path, what: str) -> BundleError:
    return BundleError(
        f"the bundle '{path}' is damaged: {what}", hint="copy or export it again; do not edit it"
    )
