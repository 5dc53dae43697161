"""Histories: one event, the protocols of stores, and the histories inside a bundle."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crossfeed.bundle import Bundle
from crossfeed.scorer import Histories, Ints
from crossfeed.serving.histories.availability import AvailabilityReader, ItemFlag
from crossfeed.serving.histories.bulk import BulkHistories
from crossfeed.serving.histories.pins import Pin, PinReader
from crossfeed.serving.ids import Id

__all__ = [
    "DURABLE",
    "POSSIBLE_TIMES",
    "BundleHistories",
    "Durability",
    "Event",
    "HistoryReader",
    "HistoryStore",
    "NewEvent",
    "is_possible_time",
]

POSSIBLE_TIMES = "between 1990 and a day from now"
"""The times that `is_possible_time` allows, in words."""

_EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
_DAY_SECONDS = 86_400


def is_possible_time(milliseconds: int) -> bool:
    """Return whether something that a user did can have been then."""
    return _EARLIEST.timestamp() <= milliseconds / 1000 <= time.time() + _DAY_SECONDS


class Event(NamedTuple):
    """One thing that a user did with an item."""

    item_id: Id
    domain: str
    timestamp: int
    """Milliseconds since 1970 (UTC)."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event on its way into a store."""

    event_id: str
    """Names the event, so that sending it twice stores it once."""
    user_id: Id
    item_id: Id
    domain: str
    timestamp: int
    """Milliseconds since 1970 (UTC)."""


@dataclass(frozen=True, slots=True)
class Durability:
    """A store's promise for the events that it acknowledged."""

    kept: bool
    """Whether they outlive a crash of process and machine."""
    sentence: str
    """The promise as a sentence for people."""


DURABLE = Durability(True, "every event is on disk before it is acknowledged")


class HistoryReader(Protocol):
    """Anything that knows what users did."""

    def read_many(
        self, user_ids: Sequence[Id], *, limit: int | None = None
    ) -> list[Sequence[Event]]:
        """Return the newest events of each user, oldest first; none for an unknown user.

        Args:
            user_ids: the users.
            limit: how many events of each, at least 1; None for all.
        """


class HistoryStore(HistoryReader, AvailabilityReader, PinReader, Protocol):
    """A reader that also learns; every method raises HistoryStoreError where the store fails.

    Events of a user are ordered by their time, also those that come late; ties as they came.
    Beside them it keeps which items are available and which model is in service: all processes
    that share it must know.
    """

    def append(self, events: Sequence[NewEvent]) -> tuple[int, int]:
        """Store events, all or none; return how many were new and how many known by their id."""

    def forget(self, user_id: Id) -> int:
        """Erase all events of a user; return how many.

        Events of the user up to this moment are not stored again; `append` and `load` count them
        among the known ones.
        """

    def set_available(self, flags: Sequence[ItemFlag]) -> int:
        """Set which items may be recommended, all or none; return how many flags changed."""

    def pin(self, version: str, *, only_first: bool = False) -> Pin:
        """Put a model into service; return the pin in force.

        Args:
            version: the version of its bundle; pinning what is pinned changes nothing.
            only_first: change nothing either where any model is pinned.
        """

    def durability(self) -> Durability:
        """Return what becomes of acknowledged events in a crash, as the store is set up now."""

    def ping(self) -> None:
        """Check that the store can be written."""

    def close(self) -> None:
        """Finish what was asked for and let go."""

    @property
    def bulk(self) -> BulkHistories:
        """Return what fills, loads and exports the same store."""


class BundleHistories:
    """The histories inside a bundle, read once and kept as arrays."""

    def __init__(self, bundle: Bundle) -> None:
        schema = pa.schema(
            {
                "user_id": bundle.user_id_type,
                "item_id": bundle.item_id_type,
                "domain": pa.string(),
                "timestamp": pa.int64(),
            }
        )
        events = pa.Table.from_batches(bundle.histories(), schema=schema)
        encoded = events["user_id"].combine_chunks().dictionary_encode()
        self._events = events
        self._bundle = bundle
        self.user_ids: pa.Array = encoded.dictionary
        """(U,) the users that the bundle knows."""
        counts = np.bincount(encoded.indices.to_numpy(), minlength=len(self.user_ids))
        self._offsets = np.concatenate([[0], np.cumsum(counts)])
        self._rows = {user_id: row for row, user_id in enumerate(self.user_ids.to_pylist())}

    def __len__(self) -> int:
        return len(self.user_ids)

    def read_many(
        self, user_ids: Sequence[Id], *, limit: int | None = None
    ) -> list[Sequence[Event]]:
        """Return the newest events of each user, oldest first; none for an unknown user."""
        return [self._newest(user_id, limit) for user_id in user_ids]

    def _newest(self, user_id: Id, limit: int | None) -> Sequence[Event]:
        row = self._rows.get(user_id)
        if row is None:
            return ()
        first, last = self._offsets[row : row + 2]
        if limit is not None:
            first = max(first, last - limit)
        columns = self._events.slice(first, last - first).select(["item_id", "domain", "timestamp"])
        return list(map(Event._make, zip(*columns.to_pydict().values(), strict=True)))

    def chunks(self, users: int) -> Iterator[tuple[pa.Array, Histories]]:
        """Yield all users' ids and known items, so many users at a time."""
        items = self._known_items()
        for first in range(0, len(self), users):
            last = min(first + users, len(self))
            offsets = self._offsets[first : last + 1]
            found = items[offsets[0] : offsets[-1]]
            rows = np.repeat(np.arange(last - first), np.diff(offsets))[found >= 0]
            counts = np.bincount(rows, minlength=last - first)
            kept = Histories(found[found >= 0], np.concatenate([[0], np.cumsum(counts)]))
            yield self.user_ids.slice(first, last - first), kept

    def _known_items(self) -> Ints:
        """Return the item index of each event; -1 where the model does not know the item."""
        found = np.full(len(self._events), -1, dtype=np.int64)
        domains = self._events["domain"].combine_chunks()
        for domain, name in enumerate(self._bundle.catalogue.domains):
            rows = np.flatnonzero(pc.equal(domains, name))
            ids = self._events["item_id"].take(pa.array(rows)).combine_chunks()
            found[rows] = self._bundle.item_indices(ids, domain)
        return found
