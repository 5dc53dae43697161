"""Bundles that answer otherwise than a given one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from crossfeed.bundle import Bundle, BundleContents, write_bundle
from crossfeed.data.demand import FEATURES
from crossfeed.model.network_scorer import NetworkScorer
from crossfeed.scorer import Bools, Catalogue, Doubles
from crossfeed.serving.recommend.recommender import Recommender


class Quiet:
    """A moment in which every item exists and none has demand."""

    time = 0

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def demand(self, domain: int) -> Doubles:
        pool = self._catalogue.pool(domain)
        return np.zeros((pool.stop - pool.start, FEATURES))

    def exists(self, domain: int) -> Bools:
        pool = self._catalogue.pool(domain)
        return np.ones(pool.stop - pool.start, np.bool_)


def variant(bundle: Bundle, out: Path, *, factor: float = 1.0, **changed: Any) -> Path:
    """Write a bundle with other weights; what is given replaces the rest."""
    state = {name: value * factor for name, value in bundle.scorer.state().items()}
    contents = {
        "scorer": NetworkScorer.from_state(bundle.catalogue, bundle.scorer.config, state),
        "item_ids": pa.chunked_array([bundle.item_ids]),
        "user_id_type": bundle.user_id_type,
        "clicks": bundle.clicks,
        "recent_clicks": bundle.recent_clicks,
        "moment": Quiet(bundle.catalogue),
        "histories": bundle.histories(),
        "card": bundle.card,
    }
    return write_bundle(out, BundleContents(**{**contents, **changed}))


def best(bundle: Path, user: str = "u001") -> list[Any]:
    """Return the ids of the five videos that a bundle recommends."""
    found = Recommender.load(bundle).recommend(user_id=user, domain="videos", k=5)
    return [item.item_id for item in found.items]
