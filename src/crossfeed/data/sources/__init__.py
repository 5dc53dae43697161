"""Public data in layouts of their own, each with the rules by which it becomes a log."""

from __future__ import annotations

from collections.abc import Mapping

from crossfeed.data.sources.amazon import AMAZON_2018, AMAZON_2023
from crossfeed.data.sources.impressions import ALI_CCP, KUAIRAND, MIND
from crossfeed.data.sources.movielens import MOVIELENS, MOVIELENS_1M, MOVIELENS_100K
from crossfeed.data.sources.ratings import CIAO, DOUBAN, EPINIONS, NETFLIX, RECBOLE
from crossfeed.data.sources.source import Source

__all__ = ["SOURCES", "Source"]

SOURCES: Mapping[str, Source] = {
    source.name: source
    for source in (
        *(MOVIELENS_100K, MOVIELENS_1M, MOVIELENS),
        *(AMAZON_2018, AMAZON_2023),
        *(KUAIRAND, MIND, ALI_CCP),
        *(DOUBAN, NETFLIX, CIAO, EPINIONS, RECBOLE),
    )
}
"""The sources by the name of `--source`."""
