"""What a source of public data states of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

__all__ = ["Source"]


@dataclass(frozen=True)
class Source:
    """Public data in a layout of its own, and how it becomes a log."""

    name: str
    title: str
    licence: str
    """The terms of use, in a sentence; the data itself is never part of crossfeed."""
    home_page: str
    rules: tuple[str, ...]
    """How users, items, domains and clicks are made of it, one sentence each."""
    positive: str | None
    """Which rows are clicks unless `data.positive` says otherwise; None for the usual rule."""
    read: Callable[[Path], pa.Table]
    """Read the folder as a log: user_id, item_id, domain, timestamp and what `positive` needs."""
