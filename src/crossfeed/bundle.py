"""The bundle: one folder that serves on a laptop and on a server.

    bundle.json                format version, model, metrics card, size and hash of every file
    weights.safetensors        all tensors of the players: encoders, item vectors and biases
    user_encoder.onnx          the user side of the score for ONNX Runtime; can be left out
    index-D.faiss              an approximate index of the large domain with index D
    items.parquet              item_id, domain, clicks, recent_clicks; the row is the item's index
    domains.parquet            domain, items, known; the row is the domain's index
    histories.parquet          user_id, item_id, domain, timestamp (ms); can be left out

Nothing in it is pickled, and every file is checked against its hash before it is used.

Dims: I items, D domains.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
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
from crossfeed.item_index import RECALL_AT, BuiltIndex, ItemIndex
from crossfeed.scorer import Catalogue, Ints

if TYPE_CHECKING:  # torch is loaded with the scorer, not before
    from crossfeed.model.onnx_encoder import OnnxEncoder
    from crossfeed.model.scorer import NetworkScorer

__all__ = ["FORMAT_VERSION", "Bundle", "BundleContents", "write_bundle"]

FORMAT_VERSION = 2

_REQUIRED = ("weights.safetensors", "items.parquet", "domains.parquet")
_HISTORIES = "histories.parquet"
_ENCODER = "user_encoder.onnx"


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
    from safetensors.torch import save_file

    scorer = contents.scorer
    with atomic_folder(out, overwrite=overwrite) as folder:
        save_file(
            {name: value.contiguous() for name, value in scorer.state().items()},
            folder / "weights.safetensors",
        )
        _write_tables(folder, contents)
        if contents.encoder is not None:
            (folder / _ENCODER).write_bytes(contents.encoder)
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
        write_json(folder / "bundle.json", {**about, "version": _version(about)})
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
        items = pq.read_table(path / "items.parquet")
        domains = pq.read_table(path / "domains.parquet")
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
            item_ids=items["item_id"].combine_chunks(),
            clicks=items["clicks"].to_numpy().astype(np.int64),
            recent_clicks=items["recent_clicks"].to_numpy().astype(np.int64),
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

    @property
    def user_id_type(self) -> pa.DataType:
        """Return the type of the log's user ids: string or int64."""
        return _id_type(self.about["user_id_type"])

    @property
    def item_id_type(self) -> pa.DataType:
        """Return the type of the log's item ids: string or int64."""
        return self.item_ids.type

    @cached_property
    def scorer(self) -> NetworkScorer:
        """Return the score that the bundle was made from."""
        from safetensors.torch import load_file

        from crossfeed.model.scorer import NetworkScorer

        weights = load_file(self.path / "weights.safetensors")
        config = ModelConfig.model_validate(self.about["model"])
        return NetworkScorer.from_state(self.catalogue, config, weights)

    @cached_property
    def encoder(self) -> OnnxEncoder | NetworkScorer:
        """Return what encodes users: the exported graph, if it does what the scorer does."""
        from crossfeed.model.onnx_encoder import open_encoder

        return open_encoder(self.path / _ENCODER, self.scorer)

    @cached_property
    def indexes(self) -> dict[str, ItemIndex]:
        """Return by domain the index that was found good enough; none where faiss is missing."""
        if importlib.util.find_spec("faiss") is None:
            return {}
        return {
            name: ItemIndex((self.path / facts["file"]).read_bytes(), probes=facts["probes"])
            for name, facts in self.about["indexes"].items()
            if facts["file"] is not None
        }

    def item_indices(self, ids: pa.Array, domain: int) -> Ints:
        """Return the item index of each id in a domain; -1 where the domain has no such item."""
        first, last = self.catalogue.offsets[domain : domain + 2]
        found = pc.index_in(ids, value_set=self.item_ids.slice(first, last - first))
        return np.asarray(pc.add(found.cast(pa.int64()), int(first)).fill_null(-1))

    def item_index(self, item_id: str | int, domain: str) -> int:
        """Return the index of one item; -1 where there is no such domain or item in it."""
        return self._items_by_id.get(domain, {}).get(item_id, -1)

    @cached_property
    def _items_by_id(self) -> dict[str, dict[str | int, int]]:
        """Return by domain where each id is; built once, for look-ups one by one."""
        ids = self.item_ids.to_pylist()
        bounds = itertools.pairwise(self.catalogue.offsets.tolist())
        return {
            name: dict(zip(ids[first:last], range(first, last), strict=True))
            for name, (first, last) in zip(self.catalogue.domains, bounds, strict=True)
        }

    @property
    def has_histories(self) -> bool:
        """Return whether the bundle holds what users did."""
        return _HISTORIES in self.about["files"]

    def histories(self) -> Iterator[pa.RecordBatch]:
        """Yield user_id, item_id, domain, timestamp (ms), each user's oldest first."""
        if self.has_histories:
            with pq.ParquetFile(self.path / _HISTORIES) as file:
                yield from file.iter_batches()


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


def _write_tables(folder: Path, contents: BundleContents) -> None:
    catalogue = contents.scorer.catalogue
    sizes = np.diff(catalogue.offsets)
    names = pa.array(catalogue.domains, pa.string())
    items = pa.table(
        {
            "item_id": contents.item_ids,
            "domain": names.take(pa.array(np.repeat(np.arange(len(sizes)), sizes))),
            "clicks": contents.clicks,
            "recent_clicks": contents.recent_clicks,
        }
    )
    pq.write_table(items, folder / "items.parquet")
    domains = pa.table({"domain": names, "items": sizes, "known": catalogue.known})
    pq.write_table(domains, folder / "domains.parquet")


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
    if stated != _version({key: value for key, value in about.items() if key != "version"}):
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


def _version(about: Mapping[str, object]) -> str:
    """Return a short hash of what bundle.json says, the files' hashes included."""
    text = json.dumps(about, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def _id_type(name: str) -> pa.DataType:
    return pa.int64() if name == "int64" else pa.string()


def _damaged(path: Path, what: str) -> BundleError:
    return BundleError(
        f"the bundle '{path}' is damaged: {what}", hint="copy or export it again; do not edit it"
    )
