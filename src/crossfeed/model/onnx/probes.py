"""Made-up histories to compare encoders with, always the same for a catalogue."""

from __future__ import annotations

import numpy as np

from crossfeed.scorer import Catalogue, Histories, Ints

__all__ = ["probes"]

_LENGTHS = (0, 1, 2, 3, 5, 9, 17, 33, 65, 129)


def probes(catalogue: Catalogue) -> tuple[Histories, Ints]:
    """Return made-up histories of many lengths with a target domain each; always the same."""
    draws = np.random.default_rng(0)
    items = catalogue.trained_items
    rows = [draws.choice(items, length) if len(items) else items for length in _LENGTHS]
    return Histories.of(rows), draws.integers(len(catalogue.domains), size=len(rows))
