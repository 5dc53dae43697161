"""The description of a source of public data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb

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
    """How users, items, domains, times and clicks are made of it, one sentence each."""
    positive: str | None
    """Which rows are clicks unless `data.positive` says otherwise; None for the usual rule."""
    query: Callable[[duckdb.DuckDBPyConnection, Path], str]
    """Look into a folder and return the SELECT of its rows: user_id, item_id, domain, timestamp
    where there is one, and what `positive` needs; without times in the order of the files' rows.

    It raises LogError where the folder lacks a file of the source, naming it.
    """
