"""The stages of the work on a query, for those who time them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["Note", "unnoted"]


class Note(Protocol):
    """Is told of a stage when it is done."""

    def __call__(self, stage: str, places: Sequence[int], began: float) -> None:
        """Note a stage.

        Args:
            stage: `store` (histories were read), `encode`, `retrieve` (candidates were found) or
                `rank`.
            places: which of the queries that are answered together shared it.
            began: seconds of `time.perf_counter`; it ended now.
        """


def unnoted(stage: str, places: Sequence[int], began: float) -> None:
    """Note nothing."""
