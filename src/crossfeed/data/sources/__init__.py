"""Public data in layouts of their own, each with the rules by which it becomes a log."""

from __future__ import annotations

from collections.abc import Mapping

from crossfeed.data.sources.movielens import MOVIELENS_100K
from crossfeed.data.sources.source import Source

__all__ = ["SOURCES", "Source"]

SOURCES: Mapping[str, Source] = {source.name: source for source in (MOVIELENS_100K,)}
"""The sources by the name of `--source`."""
