"""The moments at which held-out clicks are scored, and so the clicks a scorer may know then.

Live, everything strictly before a click may be known, as a service knows it that refreshes its
demand every so often: the moment of a click is the start of its refresh interval. Frozen, nothing
after the training part is known to the scorer but the user's own history.

Dims: B events of one domain in time order, N items of its pool, M moments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from crossfeed.data.dataset import Dataset, Part
from crossfeed.scorer import Bools, Doubles, Floats, Histories, Ints, Moment, Scorer, VectorScorer

__all__ = ["REFRESH_SECONDS", "Clock", "Moments"]

REFRESH_SECONDS = 3600
"""Seconds of a log's time between two refreshes of demand in an evaluation."""


@dataclass(frozen=True)
class Clock:
    """Says which moment each event has."""

    dataset: Dataset
    part: Part
    refresh_seconds: int = REFRESH_SECONDS
    """0 is exact: every event has a moment of its own time."""
    frozen: bool = False
    """Whether all events have the moment after the training part."""

    def times(self, events: Ints) -> Ints:
        """Return (B,) the moment of each event, in milliseconds since 1970."""
        if self.frozen:
            return np.full(len(events), self._end.time)
        times = self.dataset.event_time[events]
        if not self.refresh_seconds:
            return np.array(times)
        interval = self.refresh_seconds * 1000
        return times // interval * interval

    def at(self, time: int) -> Moment:
        """Return a moment."""
        if self.frozen:
            return self._end
        return self.dataset.moment(time, self.part)

    @cached_property
    def _end(self) -> Moment:
        return self.dataset.end(Part.TRAIN)


@dataclass(frozen=True)
class Moments:
    """The moments of events of one domain."""

    clock: Clock
    domain: int
    offsets: Ints
    """(M + 1,) where the events of each moment begin."""
    times: Ints
    """(M,) ascending."""

    @classmethod
    def of(cls, clock: Clock, domain: int, events: Ints) -> Moments:
        """Divide events, which are in time order, by their moments."""
        times = clock.times(events)
        begins = np.flatnonzero(np.diff(times, prepend=times[:1] - 1))
        return cls(clock, domain, np.append(begins, len(events)), times[begins])

    def scored(self, scorer: Scorer, histories: Histories) -> tuple[Floats, Bools]:
        """Return (B, N) scores of the events, and (B, N) which items exist.

        A scorer of vectors encodes all users together; only the biases depend on the moment.
        """
        if isinstance(scorer, VectorScorer):
            personal, scores, exists = self.parts(scorer, histories)
            scores[:, : personal.shape[1]] += personal
            return scores, exists
        scores, exists = self._empty(len(histories))
        for first, last, moment in self._each():
            rows = histories.rows_between(first, last)
            exists[first:last] = moment.exists(self.domain)
            scores[first:last] = scorer.score(rows, self.domain, moment)
        return scores, exists

    def parts(self, scorer: VectorScorer, histories: Histories) -> tuple[Floats, Floats, Bools]:
        """Return the two parts of the scores, and which items exist.

        Returns:
            (B, R) inner products of users and the domain's trained items, (B, N) biases, and (B, N)
            which items exist.
        """
        users = scorer.user_vectors(histories, np.full(len(histories), self.domain, np.int64))
        trained = self.clock.dataset.catalogue.trained_rows(self.domain)
        biases, exists = self._empty(len(histories))
        for first, last, moment in self._each():
            exists[first:last] = moment.exists(self.domain)
            biases[first:last] = scorer.item_biases(self.domain, moment)
        return users @ scorer.item_vectors[trained].T, biases, exists

    def _empty(self, rows: int) -> tuple[Floats, Bools]:
        pool = self.clock.dataset.catalogue.pool(self.domain)
        shape = (rows, pool.stop - pool.start)
        return np.empty(shape, np.float32), np.empty(shape, np.bool_)

    def _each(self) -> Iterator[tuple[int, int, Moment]]:
        bounds = self.offsets.tolist()
        for first, last, time in zip(bounds[:-1], bounds[1:], self.times.tolist(), strict=True):
            yield first, last, _Kept(self.clock.at(time), self.domain)


class _Kept:
    """A moment of one domain that counts once, however often it is asked."""

    def __init__(self, moment: Moment, domain: int) -> None:
        self._moment, self._domain = moment, domain

    @property
    def time(self) -> int:
        return self._moment.time

    def demand(self, domain: int) -> Doubles:
        return self._demand if domain == self._domain else self._moment.demand(domain)

    def exists(self, domain: int) -> Bools:
        return self._exists if domain == self._domain else self._moment.exists(domain)

    @cached_property
    def _demand(self) -> Doubles:
        return self._moment.demand(self._domain)

    @cached_property
    def _exists(self) -> Bools:
        return self._moment.exists(self._domain)
