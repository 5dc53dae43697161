"""Which items are out of stock, taken down or not yet out: set at run time, kept by the store."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crossfeed.bundle import Bundle
from crossfeed.errors import HistoryStoreError
from crossfeed.serving.ids import Id

__all__ = [
    "ALL_AVAILABLE",
    "Availability",
    "AvailabilityReader",
    "ItemFlag",
    "Stock",
    "Unavailable",
    "latest_flags",
]


@dataclass(frozen=True, slots=True)
class ItemFlag:
    """Whether one item may be recommended from now on."""

    item_id: Id
    domain: str
    available: bool


@dataclass(frozen=True)
class Unavailable:
    """The items that may not be recommended, as of one moment."""

    version: int
    """Grows with every change."""
    items: Set[tuple[str, Id]]
    """Domain and id of each."""


ALL_AVAILABLE = Unavailable(0, frozenset())


class AvailabilityReader(Protocol):
    """Anything that knows which items are not available."""

    def unavailable(self, *, since: int | None) -> Unavailable | None:
        """Return the items that are not available; None where nothing changed since a version."""


class Availability:
    """The flags as of now, or as last known while the store does not answer."""

    def __init__(self, reader: AvailabilityReader) -> None:
        self._reader = reader
        self._last: Unavailable | None = None

    def now(self) -> Unavailable:
        """Return the flags; the same object as long as none of them changes."""
        last = self._last
        try:
            changed = self._reader.unavailable(since=None if last is None else last.version)
        except HistoryStoreError:  # who reads counts it; old flags are better than no answer
            changed = None
        if changed is not None:
            self._last = changed
        return self._last or ALL_AVAILABLE


class Stock:
    """The flags of a bundle's items as a mask, made anew only when a flag changes."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._mask = (ALL_AVAILABLE, np.zeros(bundle.catalogue.items, dtype=np.bool_))

    def unavailable_mask(self, flags: Unavailable) -> NDArray[np.bool_]:
        """Return (I,) true where an item is not available."""
        made_from, mask = self._mask
        if made_from is not flags:
            index = self._bundle.ids.index
            found = np.array([index(item_id, domain) for domain, item_id in flags.items], np.int64)
            mask = np.zeros_like(mask)
            mask[found[found >= 0]] = True
            self._mask = (flags, mask)
        return mask


def latest_flags(flags: Sequence[ItemFlag]) -> dict[tuple[str, Id], bool]:
    """Return what each item is set to; of several flags of one item the last counts."""
    return {(flag.domain, flag.item_id): flag.available for flag in flags}
