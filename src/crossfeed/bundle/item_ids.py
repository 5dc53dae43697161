"""Look-ups from ids to items and back, without a table of Python objects.

A dictionary of a million ids takes a hundred megabytes in every process. Instead, the ids are
sorted in a file that all processes map, bisection finds them, and frequent ones are cached.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crossfeed.scorer import Catalogue, Ints

__all__ = ["ItemIds", "sorted_places"]

_KEPT = 1 << 17
"""Largest number of cached ids of a domain; beyond it the cache is cleared."""


class ItemIds:
    """Look-ups between ids and item indices."""

    def __init__(self, ids: pa.Array, by_id: Ints, catalogue: Catalogue) -> None:
        """Prepare look-ups; the arrays are only read, and only during a look-up.

        Args:
            ids: (I,) the log's item ids, strings or int64; unique within a domain.
            by_id: (I,) the result of `sorted_places` for them.
            catalogue: which items each domain has.
        """
        self._key = _integers(ids) if ids.type == pa.int64() else _texts(ids)
        self._by_id = by_id
        bounds = catalogue.offsets.tolist()
        self._ranges = {
            name: range(bounds[domain], bounds[domain + 1])
            for domain, name in enumerate(catalogue.domains)
        }
        self._kind = int if ids.type == pa.int64() else str
        self._kept: dict[str, dict[str | int, int]] = {name: {} for name in catalogue.domains}

    def index(self, item_id: str | int, domain: str) -> int:
        """Return the index of an item; -1 if the domain or the item does not exist."""
        kept = self._kept.get(domain)
        if kept is None:
            return -1
        found = kept.get(item_id)
        if found is None:
            found = self._find(item_id, self._ranges[domain])
            if found >= 0:  # unknown ids are not cached: there could be any number
                if len(kept) >= _KEPT:
                    kept.clear()
                kept[item_id] = found
        return found

    def indices(self, events: Iterable[tuple[str | int, str, object]]) -> list[int]:
        """Return the item index of each event: (item id, domain, anything)."""
        found = []
        for item_id, domain, _ in events:
            kept = self._kept.get(domain)
            item = None if kept is None else kept.get(item_id)
            found.append(self.index(item_id, domain) if item is None else item)
        return found

    def ids(self, items: Ints) -> list[str | int]:
        """Return the ids of items."""
        return [_plain(self._key(item)) for item in items.tolist()]

    def _find(self, item_id: str | int, places: range) -> int:
        if not isinstance(item_id, self._kind):
            return -1
        wanted = item_id.encode() if isinstance(item_id, str) else item_id
        by_id, key = self._by_id, self._key
        place = bisect_left(places, wanted, key=lambda place: key(int(by_id[place])))
        if place == len(places):
            return -1
        item = int(by_id[places[place]])
        return item if key(item) == wanted else -1


def sorted_places(ids: pa.Array, catalogue: Catalogue) -> Ints:
    """Return (I,) item indices, each domain's sorted by id."""
    bounds = catalogue.offsets.tolist()
    parts = [
        first + np.asarray(pc.sort_indices(ids.slice(first, last - first))).astype(np.int64)
        for first, last in itertools.pairwise(bounds)
    ]
    return np.concatenate([np.zeros(0, np.int64), *parts])


Key = Callable[[int], Any]  # Any: bytes or an integer, whichever the ids are


def _integers(ids: pa.Array) -> Key:
    return ids.to_numpy(zero_copy_only=True).item  # type: ignore[no-any-return]


def _texts(ids: pa.Array) -> Key:
    """Return a function that reads an id's UTF-8 from the array's memory."""
    _, bounds, content = ids.buffers()
    ends = np.frombuffer(bounds, np.int32)[ids.offset :]
    text = memoryview(content if content is not None else b"")
    return lambda item: bytes(text[ends[item] : ends[item + 1]])


def _plain(key: Any) -> str | int:  # Any: bytes or an integer
    return key.decode() if isinstance(key, bytes) else key
