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

    sequence: int
    """Grows with every change."""
    items: Set[tuple[str, Id]]
    """Domain and id of each."""


ALL_AVAILABLE = Unavailable(0, frozenset())


class AvailabilityReader(Protocol):
    """Anything that knows which items are not available."""

    def flags_since(self, sequence: int) -> tuple[Sequence[ItemFlag], int]:
        """Return the flags that changed after a sequence, and the sequence as of now.

        From 0 on these are all items that are not available. A sequence below the one that was
        given means another store: ask from 0 on.
        """


class Availability:
    """The flags as of now, or as last known while the store does not answer."""

    def __init__(self, reader: AvailabilityReader) -> None:
        self._reader = reader
        self._last = ALL_AVAILABLE

    def now(self) -> Unavailable:
        """Return the flags; the same object as long as none of them changes."""
        last = self._last
        try:
            changed, sequence = self._reader.flags_since(last.sequence)
            if sequence < last.sequence:
                last = ALL_AVAILABLE
                changed, sequence = self._reader.flags_since(0)
        except HistoryStoreError:  # the reader counts it; old flags are better than no answer
            return last
        if sequence != self._last.sequence:
            self._last = Unavailable(sequence, _with_changes(last.items, changed))
        return self._last


class Stock:
    """The flags of a bundle's items as a mask; a change touches the changed items alone."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._mask = (ALL_AVAILABLE, np.zeros(bundle.catalogue.items, dtype=np.bool_))

    def unavailable_mask(self, flags: Unavailable) -> NDArray[np.bool_]:
        """Return (I,) true where an item is not available."""
        made_from, mask = self._mask
        if made_from is not flags:
            mask = mask.copy()  # other threads may be reading it
            mask[self._indices(made_from.items - flags.items)] = False
            mask[self._indices(flags.items - made_from.items)] = True
            self._mask = (flags, mask)
        return mask

    def _indices(self, items: Set[tuple[str, Id]]) -> NDArray[np.int64]:
        """Return the indices of those items that the model knows."""
        index = self._bundle.ids.index
        found = np.array([index(item_id, domain) for domain, item_id in items], np.int64)
        return found[found >= 0]


def latest_flags(flags: Sequence[ItemFlag]) -> dict[tuple[str, Id], bool]:
    """Return what each item is set to; of several flags of one item the last counts."""
    return {(flag.domain, flag.item_id): flag.available for flag in flags}


def _with_changes(items: Set[tuple[str, Id]], changed: Sequence[ItemFlag]) -> Set[tuple[str, Id]]:
    latest = latest_flags(changed)
    return (items - latest.keys()) | {item for item, there in latest.items() if not there}
