"""A prepared dataset: a folder of Parquet tables and memory-mapped event arrays.

Dims: U users, I items, D domains, N events.

    manifest.json       format version, configuration, counts, hashes of logical content
    users.parquet       user_id; the row is the user's index
    items.parquet       item_id, domain, clicks (training part), clicks_all; the row is the index
    domains.parquet     domain, items, known, clicks; the row is the domain's index
    events/*.npy        user_offsets (U + 1,), item, domain, time, part: (N,) each, sorted by
                        (user, time, a hash of the clicked item)
    quarantine.parquet  rows that could not be read: file, row, reason
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crossfeed.config import DataConfig
from crossfeed.data.dataset.hashing import EVENT_ARRAYS, combined_hash, content_hashes
from crossfeed.errors import ConfigError, DatasetError
from crossfeed.outputs import kind_told
from crossfeed.scorer import Catalogue, Histories, Ints

__all__ = ["FORMAT_VERSION", "ROW_ORDER", "Dataset", "Part"]

FORMAT_VERSION = 1

ROW_ORDER = "row order"
"""The unit of time of a log without times: rows are counted instead."""


class Part(IntEnum):
    """The use of an event; the values are those of `part.npy`."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2
    VALIDATION_REST = 3
    """Held out with a validation event (new-in-domain split), never evaluated itself."""
    TEST_REST = 4
    """Held out with a test event (new-in-domain split), never evaluated itself."""


_VISIBLE: dict[Part, NDArray[np.bool_]] = {
    part: np.isin(np.arange(len(Part)), parts)
    for part, parts in {
        Part.TRAIN: [Part.TRAIN],
        # Selection never sees test, not even as history.
        Part.VALIDATION: [Part.TRAIN, Part.VALIDATION, Part.VALIDATION_REST],
        Part.TEST: list(Part),
    }.items()
}
"""Part -> (P,) whether events of each part may be seen in it."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared dataset, opened for reading; the event arrays stay on disk until touched."""

    path: Path
    manifest: dict[str, Any]  # Any: JSON
    catalogue: Catalogue
    item_clicks: Ints
    """(I,) clicks of each item in the training part."""
    user_offsets: Ints
    """(U + 1,) where each user's events begin."""
    event_item: NDArray[np.int32]
    """(N,) item index, -1 for an item outside the tables."""
    event_domain: NDArray[np.int32]
    """(N,) domain index."""
    event_time: NDArray[np.int64]
    """(N,) milliseconds since 1970 (UTC)."""
    event_part: NDArray[np.uint8]
    """(N,) `Part` of each event."""
    target_domains: NDArray[np.bool_] | None = None
    """(D,) domains whose events can be targets; None is all."""
    history_domains: NDArray[np.bool_] | None = None
    """(D,) domains whose events histories hold; None is all."""

    def __repr__(self) -> str:
        """Return the place and the sizes, not the arrays."""
        return (
            f"<Dataset '{self.path}': {len(self.event_item):,} clicks of {self.users:,} users on "
            f"{self.catalogue.items:,} items, domains: {', '.join(self.catalogue.domains)}>"
        )

    @classmethod
    def load(cls, path: Path | str) -> Dataset:
        """Open a dataset folder.

        Raises:
            DatasetError: the folder is missing, incomplete or of another format version.
        """
        path = Path(path)
        manifest = _read_manifest(path)
        try:
            domains = pq.read_table(path / "domains.parquet")
            clicks = pq.read_table(path / "items.parquet", columns=["clicks"])["clicks"]
            arrays = {
                name: np.load(path / "events" / f"{name}.npy", mmap_mode="r")
                for name in EVENT_ARRAYS
            }
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _damaged(path, str(error)) from error
        offsets = np.concatenate([[0], np.cumsum(domains["items"].to_numpy())]).astype(np.int64)
        return cls(
            path=path,
            manifest=manifest,
            catalogue=Catalogue(
                domains=tuple(domains["domain"].to_pylist()),
                offsets=offsets,
                known=domains["known"].to_numpy().astype(np.int64),
            ),
            item_clicks=clicks.to_numpy().astype(np.int64),
            user_offsets=arrays["user_offsets"],
            event_item=arrays["item"],
            event_domain=arrays["domain"],
            event_time=arrays["time"],
            event_part=arrays["part"],
        )

    def verify(self) -> None:
        """Compare the files with the hashes that the manifest states.

        Raises:
            DatasetError: naming every changed column and array.
        """
        stated = self.manifest["hashes"]
        try:
            found = content_hashes(self.path)
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise _damaged(self.path, str(error)) from error
        changed = sorted(
            name for name in stated.keys() | found.keys() if stated.get(name) != found.get(name)
        )
        if changed:
            raise _damaged(self.path, f"changed since it was written: {', '.join(changed)}")
        if combined_hash(found) != self.manifest["content_hash"]:
            raise _damaged(self.path, "the manifest's content_hash does not match its hashes")

    @property
    def users(self) -> int:
        """Return U, the number of users."""
        return len(self.user_offsets) - 1

    @property
    def config(self) -> DataConfig:
        """Return the settings that the dataset was prepared with."""
        return DataConfig.model_validate(self.manifest["config"])

    @property
    def training_span(self) -> tuple[int, int]:
        """Return the times (ms) of the first and the last training click.

        Both are 0 if they are equal, or if the log has no times.
        """
        if self.manifest.get("log", {}).get("time_unit") == ROW_ORDER:
            return 0, 0
        trained = self.event_part == Part.TRAIN
        most = np.iinfo(np.int64).max
        first = int(np.min(self.event_time, where=trained, initial=most))
        last = int(np.max(self.event_time, where=trained, initial=-most))
        return (first, last) if first < last else (0, 0)

    @cached_property
    def user_ids(self) -> pa.ChunkedArray:
        """Return (U,) the log's user ids, strings or integers."""
        return pq.read_table(self.path / "users.parquet", columns=["user_id"])["user_id"]

    @cached_property
    def item_ids(self) -> pa.ChunkedArray:
        """Return (I,) the log's item ids, strings or integers; unique within a domain."""
        return pq.read_table(self.path / "items.parquet", columns=["item_id"])["item_id"]

    def events(self, part: Part) -> Ints:
        """Return the indices of the events of one part that can be a target.

        In the training part these are the events whose item is in the tables. In the other parts
        these are all events, because an unknown item counts as a miss.
        """
        wanted = self.event_part == part
        if part is Part.TRAIN:
            wanted &= self.event_item >= 0
        if self.target_domains is not None:
            wanted &= self.target_domains[self.event_domain]
        return np.flatnonzero(wanted)

    def users_of(self, events: Ints) -> Ints:
        """Return the user index of each event."""
        return np.searchsorted(self.user_offsets, events, side="right") - 1

    def user_shard(self, index: int, count: int) -> tuple[int, int]:
        """Return the users of one of `count` shards, as a half-open range of user indices.

        Events are ordered by user, so a shard's events are one slice of each mapped array, from
        `user_offsets[first]` to `user_offsets[last]`. The shards follow one another and cover all
        users. Users are not divided: a shard differs from N / count events by at most the events of
        the largest user. With more shards than users, some are empty.

        Args:
            index: of the shard, from 0 to `count` - 1.
            count: of the shards.

        Raises:
            ConfigError: there is no such shard.
        """
        if not 0 <= index < count:
            raise ConfigError(
                f"there is no shard {index} of {count}",
                hint="shards are numbered from 0 to their count - 1",
            )
        return self._shard_start(index, count), self._shard_start(index + 1, count)

    def _shard_start(self, index: int, count: int) -> int:
        """Return the user whose first event is the nearest to N * `index` / `count`."""
        if index in (0, count):
            return self.users if index else 0
        ideal = int(self.user_offsets[-1]) * index / count
        after = int(np.searchsorted(self.user_offsets, ideal))
        before = max(0, after - 1)
        nearer = ideal - self.user_offsets[before] < self.user_offsets[after] - ideal
        return before if nearer else after

    def histories(self, events: Ints, part: Part) -> Histories:
        """Return the user's history just before each event, and the event's time.

        Args:
            events: (B,) event indices.
            part: the part that uses the events; it decides which earlier events may be seen.
                Training sees training clicks, validation everything but the test part, test
                everything.
        """
        starts = self.user_offsets[self.users_of(events)]
        visible = self._visible(starts, events, part)
        return dataclasses.replace(visible, times=np.array(self.event_time[events]))

    def chunks(
        self, events: Ints, *, at_once: int, of_event: int = 0, of_click: int = 1
    ) -> Iterator[tuple[int, int]]:
        """Yield first and last + 1 of consecutive events whose histories fit in memory together.

        Args:
            events: (B,) event indices.
            at_once: largest cost of a chunk, not counting its first event.
            of_event: cost of an event.
            of_click: cost of each earlier event of its user.
        """
        costs = of_event + of_click * (events - self.user_offsets[self.users_of(events)])
        filled = np.cumsum(costs) // at_once
        bounds = {0, *(np.flatnonzero(np.diff(filled)) + 1).tolist(), len(events)}
        yield from itertools.pairwise(sorted(bounds))

    def timelines(self, users: Ints, part: Part) -> Histories:
        """Return the full visible histories of users (B,) in a part, as after its end."""
        return self._visible(self.user_offsets[users], self.user_offsets[users + 1], part)

    def _visible(self, starts: Ints, ends: Ints, part: Part) -> Histories:
        """Return the events from `starts` to before `ends` that may be seen in a part."""
        lengths = ends - starts
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        positions = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        items = self.event_item[positions].astype(np.int64)
        kept = _VISIBLE[part][self.event_part[positions]] & self.is_known(items)
        if self.history_domains is not None:
            kept &= self.history_domains[self.event_domain[positions]]
        return Histories(items, offsets).where(kept)

    def narrowed(
        self, *, targets: Iterable[int] | None = None, history: Iterable[int] | None = None
    ) -> Dataset:
        """Return a view of the dataset that knows only some domains.

        Args:
            targets: the domains whose events can be targets; all by default.
            history: the domains whose events histories hold; all by default.
        """
        return dataclasses.replace(
            self, target_domains=self._mask(targets), history_domains=self._mask(history)
        )

    @property
    def narrowing(self) -> dict[str, list[str]]:
        """Return the names of the domains that `narrowed` kept: by targets, by history, or none."""
        masks = {"targets": self.target_domains, "history": self.history_domains}
        return {
            name: list(itertools.compress(self.catalogue.domains, mask))
            for name, mask in masks.items()
            if mask is not None
        }

    def _mask(self, domains: Iterable[int] | None) -> NDArray[np.bool_] | None:
        if domains is None:
            return None
        mask = np.zeros(len(self.catalogue.domains), dtype=np.bool_)
        mask[list(domains)] = True
        return mask

    def refitted(self) -> Dataset:
        """Return the dataset with every event in the training part and every item known."""
        counted = self.event_item[self.event_item >= 0]
        return dataclasses.replace(
            self,
            catalogue=dataclasses.replace(self.catalogue, known=np.diff(self.catalogue.offsets)),
            item_clicks=np.bincount(counted, minlength=self.catalogue.items).astype(np.int64),
            event_part=np.zeros_like(self.event_part),
        )

    @cached_property
    def _known_items(self) -> NDArray[np.bool_]:
        """Return (I + 1,) whether each item is known; the last entry stands for index -1."""
        known = np.zeros(self.catalogue.items + 1, dtype=np.bool_)
        for domain in range(len(self.catalogue.domains)):
            known[self.catalogue.pool(domain)] = True
        return known

    def is_known(self, items: NDArray[np.signedinteger[Any]]) -> NDArray[np.bool_]:
        """Return whether training knows each item; -1 is an item outside the tables."""
        known: NDArray[np.bool_] = self._known_items[items]
        return known


def _read_manifest(path: Path) -> dict[str, Any]:  # Any: JSON
    try:
        manifest = json.loads((path / "manifest.json").read_text("utf-8"))
        version = manifest["format_version"]
    except OSError:
        raise DatasetError(
            f"'{path}' is not a dataset: it has no manifest.json{kind_told(path)}",
            hint="make one with: crossfeed prepare LOG --out DATASET",
        ) from None
    except (ValueError, KeyError, TypeError):
        raise _damaged(path, "manifest.json cannot be read") from None
    if version != FORMAT_VERSION:
        raise DatasetError(
            f"the dataset '{path}' has format version {version}; this crossfeed reads "
            f"{FORMAT_VERSION}",
            hint="prepare it again with --overwrite",
        )
    return dict(manifest)


def _damaged(path: Path, problem: str) -> DatasetError:
    return DatasetError(
        f"the dataset '{path}' is damaged: {problem}", hint="prepare it again with --overwrite"
    )
