"""Datasets small enough to be worked out by hand, and scorers whose answers are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from crossfeed.config import DataConfig
from crossfeed.data.dataset import Dataset, Part
from crossfeed.data.demand import FEATURES
from crossfeed.scorer import Bools, Catalogue, Doubles, Floats, Histories, Moment

Click = tuple[int, str, int, Part]
"""User, domain, number of the item in its domain (or NEW), part."""


NEW = -1
"""Number of an item that nobody clicked before, behind all others of its domain."""


def toy_dataset(
    clicks: Mapping[str, Sequence[int]], events: Sequence[Click], *, crowd: bool = False
) -> Dataset:
    """Build a dataset in memory.

    Args:
        clicks: domain -> training clicks of each of its items, at least 1, whoever they are from.
        events: the clicks of users 0, 1, ..., ordered by user, then by time.
        crowd: whether another user, the last one, clicked each item of `clicks` before all others.
    """
    clicks = {
        name: [*counts, *[0] * any(own == name and number == NEW for _, own, number, _ in events)]
        for name, counts in clicks.items()
    }
    events = [
        (user, name, len(clicks[name]) - 1 if number == NEW else number, part)
        for user, name, number, part in events
    ]
    times = list(range(len(events)))
    if crowd:
        last = max(user for user, *_ in events) + 1
        before = [
            (last, name, number, Part.TRAIN)
            for name, counts in clicks.items()
            for number, count in enumerate(counts)
            if count
        ]
        events, times = [*events, *before], [*times, *range(-len(before), 0)]
    sizes = [len(counts) for counts in clicks.values()]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    domains = tuple(clicks)
    domain = np.array([domains.index(name) for _, name, _, _ in events], np.int32)
    item = np.array([number for _, _, number, _ in events], np.int32)
    users = np.array([user for user, _, _, _ in events])
    return Dataset(
        path=Path("toy"),
        manifest={"config": DataConfig().model_dump(mode="json")},
        catalogue=Catalogue(
            domains, offsets, trained=np.array([np.count_nonzero(own) for own in clicks.values()])
        ),
        trained_on_all=np.array(sizes, np.int64),
        item_clicks=np.concatenate([np.array(counts, np.int64) for counts in clicks.values()]),
        user_offsets=np.searchsorted(users, np.arange(users.max() + 2)),
        event_item=(item + offsets[domain]).astype(np.int32),
        event_domain=domain,
        event_time=np.array(times, np.int64),
        event_part=np.array([part for _, _, _, part in events], np.uint8),
    )


def living_dataset(
    *,
    sizes: Sequence[int] = (30, 12, 8),
    trained: Sequence[int] = (20, 12, 3),
    clicks: int = 900,
    users: int = 40,
    seed: int = 0,
) -> Dataset:
    """Build a training part in memory in which items come into being, many clicks at one time.

    Args:
        sizes: items of each domain.
        trained: how many of them have a row.
        clicks: N.
        users: U.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    times = np.sort(rng.integers(0, clicks // 2, clicks))
    domain = rng.choice(len(sizes), clicks, p=np.array(sizes) / sum(sizes))
    born = [rng.integers(-clicks // 4, clicks // 2, size) for size in sizes]
    item = np.empty(clicks, np.int64)
    for click, (of_domain, time) in enumerate(zip(domain, times, strict=True)):
        there = np.flatnonzero(born[of_domain] <= time)
        item[click] = rng.choice(there) if len(there) else 0
    user = rng.integers(0, users, clicks)
    order = np.lexsort((times, user))
    item = (item + offsets[domain])[order]
    return Dataset(
        path=Path("living"),
        manifest={"config": DataConfig(repeats="keep").model_dump(mode="json"), "log": {}},
        catalogue=Catalogue(
            tuple("abcdefgh"[: len(sizes)]), offsets, trained=np.array(trained, np.int64)
        ),
        trained_on_all=np.array(trained, np.int64),
        item_clicks=np.bincount(item, minlength=offsets[-1]).astype(np.int64),
        user_offsets=np.searchsorted(user[order], np.arange(users + 1)),
        event_item=item.astype(np.int32),
        event_domain=domain[order].astype(np.int32),
        event_time=(1_000_000_000_000 + 3_600_000 * times[order]).astype(np.int64),
        event_part=np.zeros(clicks, np.uint8),
    )


class RandomMoment:
    """A moment at which all items exist, with demand drawn at random."""

    time = 0

    def __init__(self, catalogue: Catalogue, *, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        sizes = np.diff(catalogue.offsets).tolist()
        self._demand = [rng.normal(size=(size, FEATURES)) for size in sizes]

    def demand(self, domain: int) -> Doubles:
        return self._demand[domain]

    def exists(self, domain: int) -> Bools:
        return np.ones(len(self._demand[domain]), np.bool_)


class Constant:
    """Scores every item of a domain the same for all users."""

    name = "constant"

    def __init__(self, scores: Mapping[int, Sequence[float]]) -> None:
        self.scores = scores

    def score(self, histories: Histories, domain: int, moment: Moment) -> Floats:
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

    def score(self, histories: Histories, domain: int, moment: Moment) -> Floats:
        self.rows.append(len(histories))
        users = np.zeros((len(histories), 4), np.float32)
        np.add.at(users, histories.rows(), self.tastes[histories.items])
        return users @ self.tastes[self.catalogue.pool(domain)].T
