"""Quality of pseudo-samples: held-out clicks and the planted truth.

Dims: B users, N items of the domain's pool, S samples of a batch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossfeed.data.dataset import Dataset, Part
from crossfeed.data.simulate.truth import Truth
from crossfeed.errors import ConfigError
from crossfeed.evaluation.ranking import Seen
from crossfeed.scorer import Floats, Histories, Ints

__all__ = ["Expansion", "Plausibility", "Samples", "Tally", "TrueTaste"]

_TRUE_SHARE = 0.1
"""Share of the pool that counts as truly good for a user, the best first."""


@dataclass(frozen=True)
class Samples:
    """Samples of a batch of users, ordered by user and falling confidence."""

    rows: Ints
    """(S,) the user's row in the batch."""
    columns: Ints
    """(S,) the item's place in the pool."""
    confidence: Floats
    """(S,)"""


@dataclass(frozen=True)
class Plausibility:
    """Quality of samples, beside equally many drawn by popularity for the same users."""

    precision: float
    """Share of the samples that are good."""
    popularity: float
    """The same share among those drawn by popularity."""

    @property
    def lift(self) -> float | None:
        """Return the ratio of both shares; None if popularity found nothing."""
        return self.precision / self.popularity if self.popularity else None


@dataclass(frozen=True)
class Expansion:
    """The samples generated for a domain."""

    domain: str
    users: int
    """Users who got samples."""
    samples: int
    coverage: float
    """Share of the pool's items that are in some sample."""
    duplicates: int
    """Samples that repeat a (user, item) or a training click; must be 0."""
    held_out: Plausibility | None
    """Good: the user clicked it in a held-out part. None if the users have no such click."""
    truth: Plausibility | None
    """Good: among the tenth of the pool that the planted truth puts first for the user. None
    without a truth."""

    def to_json(self) -> dict[str, object]:
        """Return all figures as plain JSON values."""
        plain = asdict(self)
        for name in ("held_out", "truth"):
            if plain[name] is not None:
                plain[name]["lift"] = getattr(self, name).lift
        return plain


class TrueTaste:
    """The planted truth of a domain's pool at the end of training."""

    def __init__(self, truth: Truth, dataset: Dataset, domain: int) -> None:
        self._truth, self._dataset = truth, dataset
        self._domain = dataset.catalogue.domains[domain]
        pool = dataset.catalogue.pool(domain)
        names = dataset.item_ids.slice(pool.start, pool.stop - pool.start).to_pylist()
        known = truth.domain_items(self._domain) if self._domain in truth.domains else []
        places = {name: place for place, name in enumerate(known)}
        if any(name not in places for name in names):
            raise ConfigError(f"the truth is of another log: it lacks items of '{self._domain}'")
        self._places = np.array([places[name] for name in names], np.int64)
        self._time = int(dataset.event_time[dataset.events(Part.TRAIN)].max()) // 1000

    def good(self, users: Ints, seen: Seen) -> NDArray[np.bool_]:
        """Return (B, N) whether an item is among the unseen items that the truth ranks first."""
        names = self._dataset.user_ids.take(pa.array(users)).to_pylist()
        times = np.full(len(users), self._time)
        chances = self._truth.probabilities(names, self._domain, timestamps=times)
        chances = chances[:, self._places]
        chances[seen.rows, seen.columns] = -1.0
        count = max(1, int(chances.shape[1] * _TRUE_SHARE))
        least = np.partition(chances, -count, axis=1)[:, -count]
        return np.asarray(chances >= least[:, None])


class Tally:
    """Counts over all batches, in memory independent of the number of users."""

    def __init__(self, dataset: Dataset, domain: int) -> None:
        self._dataset, self._domain = dataset, domain
        self._pool = dataset.catalogue.pool(domain)
        self._popularity = torch.from_numpy(dataset.item_clicks[self._pool]).float()
        self._drawn = np.zeros(self._pool.stop - self._pool.start, np.int64)
        self._held_out = self._held_out_pairs()
        self._users = self._samples = self._rivals = self._duplicates = 0
        self._hits, self._rival_hits = 0, 0
        self._true: int | None = None
        self._rival_true = 0

    def popularity_like(self, confidences: Tensor) -> Tensor:
        """Return (B, N) log-popularity with the same items left out."""
        logits = self._popularity.clamp_min(1e-3).log().expand(confidences.shape)
        return logits.masked_fill(confidences.isneginf(), float("-inf"))

    def add(
        self,
        users: Ints,
        histories: Histories,
        samples: Samples,
        rivals: Samples,
        truths: TrueTaste | None,
    ) -> None:
        """Count a batch."""
        seen = Seen.of(histories, self._pool)
        items = len(self._drawn)
        pairs = samples.rows * items + samples.columns
        clicked = np.isin(pairs, seen.rows * items + seen.columns)
        self._duplicates += len(pairs) - len(np.unique(pairs)) + int(clicked.sum())
        self._users += len(users)
        self._samples += len(samples.rows)
        self._rivals += len(rivals.rows)
        self._drawn += np.bincount(samples.columns, minlength=items)
        self._hits += self._hits_of(users, samples)
        self._rival_hits += self._hits_of(users, rivals)
        if truths is not None:
            good = truths.good(users, seen)
            self._true = (self._true or 0) + int(good[samples.rows, samples.columns].sum())
            self._rival_true += int(good[rivals.rows, rivals.columns].sum())

    def result(self, domain: str) -> Expansion:
        """Return the figures."""
        return Expansion(
            domain=domain,
            users=self._users,
            samples=self._samples,
            coverage=float((self._drawn > 0).mean()),
            duplicates=self._duplicates,
            held_out=self._shares(self._hits, self._rival_hits) if len(self._held_out) else None,
            truth=None if self._true is None else self._shares(self._true, self._rival_true),
        )

    def _shares(self, good: int, rival: int) -> Plausibility:
        return Plausibility(good / max(self._samples, 1), rival / max(self._rivals, 1))

    def _hits_of(self, users: Ints, samples: Samples) -> int:
        pairs = users[samples.rows] * len(self._drawn) + samples.columns
        return int(np.isin(pairs, self._held_out).sum())

    def _held_out_pairs(self) -> Ints:
        """Return each (user, item) clicked in a held-out part, as one number."""
        dataset = self._dataset
        events = np.flatnonzero(
            (dataset.event_part != Part.TRAIN) & (dataset.event_domain == self._domain)
        )
        items = dataset.event_item[events].astype(np.int64)
        inside = (items >= self._pool.start) & (items < self._pool.stop)
        users = dataset.users_of(events[inside])
        return np.unique(users * len(self._drawn) + items[inside] - self._pool.start)
