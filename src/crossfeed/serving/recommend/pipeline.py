"""From checked queries to answers: sources -> rules -> rank -> re-rank -> explain.

Dims: B targets, E width.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crossfeed.bundle import Bundle
from crossfeed.scorer import Floats, Histories
from crossfeed.serving.histories.availability import ALL_AVAILABLE, Availability, Stock, Unavailable
from crossfeed.serving.recommend.answers import FALLBACK_STEPS, Recommendations, Step
from crossfeed.serving.recommend.explaining import Explain, shortage
from crossfeed.serving.recommend.fallback import Fallback, Fallbacks
from crossfeed.serving.recommend.ranking import Ranked, fill_up, rank_by_score
from crossfeed.serving.recommend.reading import CheckedQuery
from crossfeed.serving.recommend.reranking import ReRank, blend
from crossfeed.serving.recommend.rules import allow, keep_allowed
from crossfeed.serving.recommend.sources import ModelSources
from crossfeed.serving.recommend.target import Allowed, Target, User
from crossfeed.serving.recommend.timing import Note, unnoted

__all__ = ["Answered", "Pipeline", "Work"]


@dataclass(frozen=True, slots=True)
class Work:
    """A query to answer, and what is known of its user."""

    checked: CheckedQuery
    user: User
    place: int = 0
    """Its number in the timing of the stages."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer, and for those who count: the fallback of each domain in the query's order."""

    recommendations: Recommendations
    fallbacks: tuple[Step | None, ...]


class Pipeline:
    """Answers queries with a bundle's model."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        availability: Availability | None = None,
        fallbacks: Fallbacks | None = None,
        rerank: ReRank = blend,
        explain: Explain = shortage,
    ) -> None:
        """Make ready to answer.

        Args:
            bundle: the model.
            availability: knows which items are not available; by default all are available.
            fallbacks: the chains of domains for users of whom nothing is known.
            rerank: makes one list of several domains' items.
            explain: says of each domain's items what there is to say.
        """
        self._bundle = bundle
        self._availability = availability
        self._stock = Stock(bundle)
        self._sources = ModelSources(bundle)
        self._fallback = Fallback(bundle, fallbacks or {})
        self._rerank, self._explain = rerank, explain
        names = bundle.catalogue.domains
        self._held_back = frozenset(names.index(name) for name in bundle.held_back)

    def check(self, checked: CheckedQuery) -> None:
        """Check that a query's sources can be asked.

        Raises:
            RequestError: one of them cannot.
        """
        self._sources.check(checked.query)

    def answer(self, work: Sequence[Work], note: Note = unnoted) -> list[Answered]:
        """Answer queries together, with one pass of the network."""
        targets = iter(self._targets(work, note))
        flags = self._flags()
        unavailable_mask = self._stock.unavailable_mask(flags)
        answers = []
        for one in work:
            own = list(itertools.islice(targets, len(one.checked.domains)))
            allowed = [
                allow(target, unavailable_mask=unavailable_mask, flags=flags) for target in own
            ]
            answers.append(self._answer(own, allowed, note))
        return answers

    def allowed(self, target: Target) -> Allowed:
        """Return which items of a domain may be recommended now."""
        flags = self._flags()
        mask = self._stock.unavailable_mask(flags)
        return allow(target, unavailable_mask=mask, flags=flags)

    def _flags(self) -> Unavailable:
        return self._availability.now() if self._availability else ALL_AVAILABLE

    def _targets(self, work: Sequence[Work], note: Note) -> list[Target]:
        """Return each domain of each query, with the user's vector in it."""
        began = time.perf_counter()
        asked = [
            (one, domain, count)
            for one in work
            for domain, count in zip(one.checked.domains, one.checked.counts, strict=True)
        ]
        vectors = self._vectors([(one.user, domain) for one, domain, _ in asked])
        encoded = [
            one.place
            for (one, _, _), vector in zip(asked, vectors, strict=True)
            if vector is not None
        ]
        if encoded:
            note("encode", encoded, began)
        catalogue = self._bundle.catalogue
        return [
            Target(
                one.checked.query,
                one.checked.lists,
                domain,
                catalogue.domains[domain],
                catalogue.pool(domain),
                count,
                one.user,
                vector,
                one.place,
            )
            for (one, domain, count), vector in zip(asked, vectors, strict=True)
        ]

    def _vectors(self, asked: Sequence[tuple[User, int]]) -> list[Floats | None]:
        """Return the vector of each user who is known to a model that serves the domain."""
        vectors: list[Floats | None] = [None] * len(asked)
        rows = [
            row
            for row, (user, domain) in enumerate(asked)
            if len(user.known) and domain not in self._held_back
        ]
        if rows:
            histories = Histories.of([asked[row][0].known for row in rows])
            domains = np.array([asked[row][1] for row in rows], np.int64)
            found = self._bundle.encoder.user_vectors(histories, domains)
            for row, vector in zip(rows, found, strict=True):
                vectors[row] = vector
        return vectors

    def _answer(
        self, targets: Sequence[Target], allowed: Sequence[Allowed], note: Note
    ) -> Answered:
        ranked = [self._ranked(*pair, note) for pair in zip(targets, allowed, strict=True)]
        items = self._rerank(ranked)
        reasons = [
            reason
            for triple in zip(targets, allowed, ranked, strict=True)
            if (reason := self._explain(*triple)) is not None
        ]
        steps = tuple(one.fallback for one in ranked)
        answer = Recommendations(
            items,
            self._bundle.version,
            max(filter(None, steps), key=FALLBACK_STEPS.index, default=None),
            "; ".join(reasons) or None,
        )
        return Answered(answer, steps)

    def _ranked(self, target: Target, allowed: Allowed, note: Note) -> Ranked:
        """Return the best items of one domain."""
        began = time.perf_counter()
        if target.vector is None:
            ranked = fill_up(self._bundle, target, allowed, self._fallback.steps(target.name))
            note("rank", [target.place], began)
            return ranked
        sources = self._sources.of(target.query)
        found = [keep_allowed(find(target, allowed), target, allowed) for find in sources]
        note("retrieve", [target.place], began)
        began = time.perf_counter()
        ranked = rank_by_score(self._bundle, target, allowed, found)
        note("rank", [target.place], began)
        return ranked
