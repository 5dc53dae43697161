"""Datasets small enough to be worked out by hand, and scorers whose answers are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from crossfeed.data.dataset import Dataset, Part
from crossfeed.scorer import Catalogue, Floats, Histories

Click = tuple[int, str, int, Part]
"""User, domain, number of the item in its domain (-1: training never saw it), part."""


def toy_dataset(clicks: Mapping[str, Sequence[int]], events: Sequence[Click]) -> Dataset:
    """Build a dataset in memory.

    Args:
        clicks: domain -> training clicks of each of its items, at least 1, whoever they are from.
        events: the clicks of users 0, 1, ..., ordered by user, then by time.
    """
    sizes = [len(counts) for counts in clicks.values()]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    domains = tuple(clicks)
    domain = np.array([domains.index(name) for _, name, _, _ in events], np.int32)
    item = np.array([number for _, _, number, _ in events], np.int32)
    users = np.array([user for user, _, _, _ in events])
    return Dataset(
        path=Path("toy"),
        manifest={},
        catalogue=Catalogue(domains, offsets, known=np.array(sizes, np.int64)),
        item_clicks=np.concatenate([np.array(counts, np.int64) for counts in clicks.values()]),
        user_offsets=np.searchsorted(users, np.arange(users.max() + 2)),
        event_item=np.where(item < 0, -1, item + offsets[domain]).astype(np.int32),
        event_domain=domain,
        event_time=np.arange(len(events)),
        event_part=np.array([part for _, _, _, part in events], np.uint8),
    )


class Constant:
    """Scores every item of a domain the same for all users."""

    name = "constant"

    def __init__(self, scores: Mapping[int, Sequence[float]]) -> None:
        self.scores = scores

    def score(self, histories: Histories, domain: int) -> Floats:
        scores = np.array(self.scores[domain], np.float32)
        return np.broadcast_to(scores, (len(histories), len(scores)))


class WholeNumbers:
    """Scores by random tastes in whole numbers: many ties, and no rounding in any batch."""

    name = "whole numbers"

    def __init__(self, catalogue: Catalogue, *, seed: int = 0) -> None:
        self.catalogue = catalogue
        rng = np.random.default_rng(seed)
        self.tastes = rng.integers(-2, 3, (catalogue.items, 4)).astype(np.float32)
        self.rows: list[int] = []

    def score(self, histories: Histories, domain: int) -> Floats:
        self.rows.append(len(histories))
        users = np.zeros((len(histories), 4), np.float32)
        np.add.at(users, histories.rows(), self.tastes[histories.items])
        return users @ self.tastes[self.catalogue.pool(domain)].T
