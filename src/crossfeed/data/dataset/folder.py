"""A prepared dataset: a folder of Parquet tables and memory-mapped event arrays.

Dims: U users, I items, D domains, N events.

    manifest.json       format version, configuration, counts, hashes of logical content
    users.parquet       user_id; the row is the user's index
    items.parquet       item_id, domain, clicks (training part), clicks_all; the row is the index
    domains.parquet     domain, items, trained, trained_on_all, clicks; the row is the domain's
                        index
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
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crossfeed.config import DataConfig
from crossfeed.data.dataset.hashing import EVENT_ARRAYS, combined_hash, content_hashes
from crossfeed.data.dataset.moments import LogMoment
from crossfeed.data.demand import DemandHistory
from crossfeed.errors import ConfigError, DatasetError
from crossfeed.outputs import kind_told
from crossfeed.scorer import Catalogue, Histories, Ints

__all__ = ["FORMAT_VERSION", "ROW_ORDER", "Dataset", "Part"]

FORMAT_VERSION = 2

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

_BURN_IN = 0.05
"""Share of a domain's training clicks, the earliest, that teach nothing: demand has no past yet."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared dataset, opened for reading; the event arrays stay on disk until touched."""

    path: Path
    manifest: dict[str, Any]  # Any: JSON
    catalogue: Catalogue
    trained_on_all: Ints
    """(D,) how many items of each domain the filters choose from all parts."""
    item_clicks: Ints
    """(I,) clicks of each item in the training part."""
    user_offsets: Ints
    """(U + 1,) where each user's events begin."""
    event_item: NDArray[np.int32]
    """(N,) item index."""
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
                trained=domains["trained"].to_numpy().astype(np.int64),
            ),
            trained_on_all=domains["trained_on_all"].to_numpy().astype(np.int64),
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

        These are all events of the part: a click on an item that did not exist is a miss.
        """
        wanted = self.event_part == part
        if self.target_domains is not None:
            wanted &= self.target_domains[self.event_domain]
        return np.flatnonzero(wanted)

    @cached_property
    def learned_events(self) -> Ints:
        """Return the indices of the training events that are targets of training.

        The first clicks of each domain are not among them (burn-in): before them hardly any item
        exists.
        """
        events = self.events(Part.TRAIN)
        domains = self.event_domain[events]
        order = np.lexsort((self.event_time[events], domains))
        counts = np.bincount(domains, minlength=len(self.catalogue.domains))
        place = np.arange(len(events)) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.sort(events[order[place >= np.repeat(counts * _BURN_IN, counts)]])

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
        """Return the user's history before each event: a click at the same time is not before.

        Args:
            events: (B,) event indices.
            part: the part that uses the events; it decides which earlier events may be seen.
                Training sees training clicks, validation everything but the test part, test
                everything.
        """
        starts = self.user_offsets[self.users_of(events)]
        return self._visible(starts, self._first_of_time[events], part)

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
        kept = _VISIBLE[part][self.event_part[positions]]
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
        """Return the dataset with every event in the training part; filters chose from all."""
        counts = np.bincount(self.event_item, minlength=self.catalogue.items)
        return dataclasses.replace(
            self,
            catalogue=dataclasses.replace(self.catalogue, trained=self.trained_on_all),
            item_clicks=counts.astype(np.int64),
            event_part=np.zeros_like(self.event_part),
        )

    def moment(self, time: int, part: Part) -> LogMoment:
        """Return what everybody did before a time.

        Args:
            time: in milliseconds since 1970.
            part: the part that uses it; it decides which clicks may be seen, as in `histories`.
        """
        return LogMoment(int(time), partial(self.demand_history, part=part))

    def end(self, part: Part) -> LogMoment:
        """Return the moment after the last click that may be seen in a part."""
        seen = _VISIBLE[part][self.event_part]
        last = np.max(self.event_time, where=seen, initial=np.iinfo(np.int64).min + 1)
        return self.moment(int(last) + 1, part)

    def demand_history(self, domain: int, part: Part) -> DemandHistory:
        """Return the clicks of a domain that may be seen in a part."""
        kept = self._demand_histories.get((domain, part))
        if kept is None:
            events = self._by_domain[domain]
            events = events[_VISIBLE[part][self.event_part[events]]]
            pool = self.catalogue.pool(domain)
            kept = self._demand_histories[domain, part] = DemandHistory.of(
                self.event_item[events].astype(np.int64) - pool.start,
                self.event_time[events],
                count=pool.stop - pool.start,
            )
        return kept

    @cached_property
    def _demand_histories(self) -> dict[tuple[int, Part], DemandHistory]:
        return {}

    @cached_property
    def _by_domain(self) -> list[Ints]:
        """Return the indices of each domain's events."""
        order = np.argsort(self.event_domain, kind="stable")
        counts = np.bincount(self.event_domain, minlength=len(self.catalogue.domains))
        return np.split(order, np.cumsum(counts)[:-1])

    @cached_property
    def _first_of_time(self) -> Ints:
        """Return (N,) the first event of each event's user at its time."""
        begins = np.ones(len(self.event_time), np.bool_)
        begins[1:] = self.event_time[1:] != self.event_time[:-1]
        firsts = self.user_offsets[:-1]
        begins[firsts[firsts < len(begins)]] = True
        return np.maximum.accumulate(np.where(begins, np.arange(len(begins)), 0))


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
