"""Recommendations in process: request -> history -> scores of the pool -> rules -> best items.

Dims: B requests, I items, N items of a pool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crossfeed.bundle import Bundle
from crossfeed.errors import RequestError
from crossfeed.files import atomic_path, require_free
from crossfeed.scorer import Floats, Histories, Ints
from crossfeed.serving.answers import (
    PastEvents,
    Recommendation,
    Recommendations,
    Request,
    blend,
)
from crossfeed.serving.answers_table import answers_schema, answers_table
from crossfeed.serving.availability import ALL_AVAILABLE, Availability, Stock, Unavailable
from crossfeed.serving.batching import BatchingEncoder
from crossfeed.serving.fallback import Fallback, Fallbacks
from crossfeed.serving.history import BundleHistories, Event, HistoryReader
from crossfeed.serving.ids import Id
from crossfeed.serving.requests import RequestReader, check_quotas
from crossfeed.serving.retrieval import Retrieval, Wanted, best_first, cosine
from crossfeed.serving.rules import Choice, Rules, Source, choose, listed_in, shortage

__all__ = ["Recommender"]

_USERS_AT_ONCE = 1024


class Recommender:
    """Answers requests with a bundle's model."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        histories: HistoryReader | None = None,
        availability: Availability | None = None,
        fallbacks: Fallbacks | None = None,
    ) -> None:
        """Make ready to answer.

        Args:
            bundle: the model.
            histories: who knows what users did; by default the bundle's own histories.
            availability: who knows which items are not available; by default all are.
            fallbacks: what domains fall back on where nothing is known of a user.
        """
        self.bundle = bundle
        self._histories = histories
        self._availability = availability
        self._stock = Stock(bundle)
        self._fallback = Fallback(bundle, fallbacks or {})
        self._reader = RequestReader(bundle)
        self._retrieval = Retrieval(bundle)

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        histories: HistoryReader | None = None,
        fallbacks: Fallbacks | None = None,
    ) -> Recommender:
        """Open a bundle for recommending.

        Args:
            path: the bundle's folder.
            histories: who knows what users did; by default the bundle's own histories.
            fallbacks: what domains fall back on where nothing is known of a user.

        Raises:
            BundleError: the bundle is missing, damaged or of another format version.
        """
        return cls(Bundle.load(path), histories=histories, fallbacks=fallbacks)

    @property
    def domains(self) -> tuple[str, ...]:
        """Return the domains that can be asked for."""
        return self.bundle.catalogue.domains

    def recommend(
        self,
        *,
        domain: str,
        user_id: Id | None = None,
        history: PastEvents | None = None,
        k: int = 10,
        exclude_seen: bool = True,
        include: Sequence[Id] | None = None,
        exclude: Sequence[Id] | None = None,
        candidates: Sequence[Id] | None = None,
        sources: Sequence[Source] | None = None,
    ) -> Recommendations:
        """Recommend items of a domain to one user.

        Args:
            domain: the target domain.
            user_id: a user whose history is known; or
            history: what the user did, for a user that no store knows.
            k: how many items, 1 to 1000.
            exclude_seen: leave out what the user had in the domain before.
            include: recommend these item ids alone.
            exclude: never recommend these item ids.
            candidates: rank these item ids instead of the domain's pool.
            sources: where items come from, all of these together: `pool`, `candidates` (needs the
                list) and `generator`, which draws 100 of the pool, or k if that is more.

        Returns:
            Exactly k items, or as many as the rules leave and the reason.

        Raises:
            UnknownDomainError: naming the domains that there are.
            RequestError: another field is not valid.
        """
        rules = Rules(exclude_seen, include, exclude, candidates, sources)
        return self.recommend_many([Request(domain, user_id, history, k, rules)])[0]

    def recommend_many(self, requests: Sequence[Request]) -> list[Recommendations]:
        """Answer several requests with one pass of the network; the same answers as one by one."""
        domains = [self._reader.domain(request) for request in requests]
        events = [
            self._reader.events(request.user_id, request.history, reader=self._history_reader)
            for request in requests
        ]
        asked = [
            _Asked(request.k, domain, self._rules(request.rules), did)
            for request, domain, did in zip(requests, domains, events, strict=True)
        ]
        known = Histories.of([self._reader.known_items(one.events) for one in asked])
        return self._answer_all(asked, known)

    def feed(
        self,
        domains: Mapping[str, int],
        *,
        user_id: Id | None = None,
        history: PastEvents | None = None,
        exclude_seen: bool = True,
        include: Sequence[Id] | None = None,
        exclude: Sequence[Id] | None = None,
    ) -> Recommendations:
        """Recommend items of several domains to one user as one feed.

        Args:
            domains: target domain -> how many of its items, 1000 together at most.
            user_id: a user whose history is known; or
            history: what the user did, for a user that no store knows.
            exclude_seen: leave out what the user had in each domain before.
            include: recommend these item ids alone, in whichever of the domains.
            exclude: never recommend these item ids.

        Returns:
            Exactly as many items of each domain, spread evenly (see `answers.blend`), or fewer and
            the reason.

        Raises:
            UnknownDomainError: naming the domains that there are.
            RequestError: another field is not valid.
        """
        rules = Rules(exclude_seen, include, exclude)
        return blend(self.feed_parts(domains, user_id=user_id, history=history, rules=rules))

    def feed_parts(
        self,
        domains: Mapping[str, int],
        *,
        user_id: Id | None,
        history: PastEvents | None,
        rules: Rules,
    ) -> list[Recommendations]:
        """Return what `feed` blends: the answer of each domain, in their order."""
        check_quotas(domains)
        asked = [Request(name, user_id, history, k, rules) for name, k in domains.items()]
        indices = [self._reader.domain(request) for request in asked]
        # Read once: all domains see the same user.
        events = self._reader.events(user_id, history, reader=self._history_reader)
        same = self._rules(rules)
        known = Histories.of([self._reader.known_items(events)] * len(asked))
        return self._answer_all(
            [
                _Asked(request.k, index, same, events)
                for request, index in zip(asked, indices, strict=True)
            ],
            known,
        )

    def recommend_all(
        self, out: Path | str, *, domain: str | None = None, k: int = 10, overwrite: bool = False
    ) -> Path:
        """Write recommendations for every user of the bundle's histories as Parquet.

        Columns user_id, domain, rank (from 1), item_id, score, source; memory does not grow with
        the number of users.

        Args:
            out: the file to write.
            domain: the target domain; all of them if None.
            k: how many items, 1 to 1000.
            overwrite: replace an existing file.

        Raises:
            RequestError: the domain or k is not valid, or the bundle holds no histories.
            OutputError: `out` exists and may not be replaced, or cannot be written.
        """
        out = Path(out)
        require_free(out, overwrite=overwrite)
        names = self.domains if domain is None else (domain,)
        domains = [self._reader.domain(Request(name, history=[], k=k)) for name in names]
        if not self.bundle.has_histories:
            raise RequestError(
                f"the bundle '{self.bundle.path}' holds no histories, so no users to recommend to",
                field="bundle",
                value=str(self.bundle.path),
                allowed="a bundle exported with histories",
            )
        schema = answers_schema(self.bundle)
        with atomic_path(out) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for user_ids, histories in self._bundle_histories.chunks(_USERS_AT_ONCE):
                for index in domains:
                    asked = [_Asked(k, index, Rules(), ())] * len(histories)
                    answers = self._answer_all(asked, histories)
                    writer.write_table(answers_table(self.bundle, user_ids.to_pylist(), answers))
        return out

    def similar_items(self, item_id: Id, *, domain: str, k: int = 10) -> Recommendations:
        """Return the items of the same domain whose vectors point most nearly the same way.

        Raises:
            UnknownDomainError: naming the domains that there are.
            RequestError: the model does not know the item, or k is not valid.
        """
        index = self._reader.domain(Request(domain, history=[], k=k))
        [wanted] = self._reader.rules(Rules(include=[item_id])).include or ()
        found = self._reader.positions([wanted], index)
        if not len(found):
            raise RequestError(
                f"item '{item_id}' is not one of the model's items in '{domain}'",
                field="item_id",
                value=item_id,
                allowed=f"an item of '{domain}' that training knew",
            )
        pool = self.bundle.catalogue.pool(index)
        vectors = self.bundle.scorer.item_vectors[pool]
        missing = self._stock.missing(self._flags())[pool]
        choice = choose(seen=found[:0], missing=missing, only=(), exclude=found)
        allowed = np.flatnonzero(choice.allowed)
        scores = cosine(vectors, vectors[found[0]])[allowed]
        best = best_first(scores, k)
        return Recommendations(
            self._named(index, allowed[best], scores[best], ["pool"] * len(best)),
            self.bundle.version,
            reason=shortage(choice, found=len(best), k=k, domain=domain),
        )

    @cached_property
    def _bundle_histories(self) -> BundleHistories:
        return BundleHistories(self.bundle)

    @cached_property
    def _encoder(self) -> BatchingEncoder:
        return BatchingEncoder(self.bundle.encoder)

    @property
    def _history_reader(self) -> HistoryReader:
        return self._histories or self._bundle_histories

    @cached_property
    def _held_back(self) -> Ints:
        """Return the indices of the domains that popularity serves."""
        names = self.bundle.held_back
        return np.array([self.domains.index(name) for name in names], dtype=np.int64)

    def _rules(self, rules: Rules) -> Rules:
        """Return rules in the terms of the bundle, after checking them."""
        self._retrieval.check(rules.drawn_from, has_list=rules.candidates is not None)
        return self._reader.rules(rules)

    def _flags(self) -> Unavailable:
        return self._availability.now() if self._availability else ALL_AVAILABLE

    def _answer_all(self, asked: Sequence[_Asked], histories: Histories) -> list[Recommendations]:
        """Answer requests whose users' known items are `histories` (B rows)."""
        domains = np.array([one.domain for one in asked], np.int64)
        known = np.flatnonzero(np.diff(histories.offsets))
        vectors = self._user_vectors(histories, domains, known)
        flags = self._flags()
        missing = self._stock.missing(flags)
        answers = []
        for row, one in enumerate(asked):
            choice = self._choose(one, histories.row(row), missing)
            vector = vectors.get(row)
            if vector is None:
                answers.append(self._fall_back(one, choice, flags))
            else:
                answers.append(self._rank(one, choice, histories.row(row), vector))
        return answers

    def _user_vectors(self, histories: Histories, domains: Ints, rows: Ints) -> dict[int, Floats]:
        """Return the vectors of those of `rows` whose domain the model serves."""
        rows = rows[~np.isin(domains[rows], self._held_back)]
        if not len(rows):
            return {}
        given = Histories.of([histories.row(row) for row in rows])
        vectors = self._encoder.user_vectors(given, domains[rows])
        return dict(zip(rows.tolist(), vectors, strict=True))

    def _choose(self, asked: _Asked, history: Ints, missing: NDArray[np.bool_]) -> Choice:
        pool, rules = self.bundle.catalogue.pool(asked.domain), asked.rules
        seen = np.unique(history[(history >= pool.start) & (history < pool.stop)] - pool.start)
        return choose(
            seen=seen if rules.exclude_seen else seen[:0],
            missing=missing[pool],
            only=[self._reader.positions(ids, asked.domain) for ids in rules.only],
            exclude=self._reader.positions(rules.exclude or (), asked.domain),
        )

    def _rank(
        self, asked: _Asked, choice: Choice, history: Ints, vector: Floats
    ) -> Recommendations:
        wanted = Wanted(
            domain=asked.domain,
            user=vector,
            history=history,
            allowed=choice.allowed,
            sources=asked.rules.drawn_from,
            listed=self._reader.positions(asked.rules.candidates or (), asked.domain),
            k=asked.k,
        )
        found = self._retrieval.best(wanted)
        domain = self.domains[asked.domain]
        return Recommendations(
            self._named(asked.domain, found.positions, found.scores, found.sources),
            self.bundle.version,
            reason=shortage(choice, found=len(found.positions), k=asked.k, domain=domain),
        )

    def _fall_back(self, asked: _Asked, choice: Choice, flags: Unavailable) -> Recommendations:
        """Answer for a user of whom nothing usable is known."""
        name = self.domains[asked.domain]
        seen = {event.item_id for event in asked.events if event.domain == name}

        def may_recommend(item_id: Id) -> bool:
            refused = asked.rules.exclude_seen and item_id in seen
            in_stock = (name, item_id) not in flags.items
            return not refused and in_stock and listed_in(asked.rules, item_id)

        found, step = self._fallback.recommend(
            asked.domain, allowed=choice.allowed, may_recommend=may_recommend, k=asked.k
        )
        offered = len(self._reader.positions([item.item_id for item in found], asked.domain))
        reason = shortage(
            choice,
            found=len(found),
            k=asked.k,
            domain=name,
            not_offered=int(np.count_nonzero(choice.allowed)) - offered,
        )
        return Recommendations(found, self.bundle.version, step, reason)

    def _named(
        self, domain: int, positions: Ints, scores: Floats, sources: Sequence[str]
    ) -> tuple[Recommendation, ...]:
        first, name = self.bundle.catalogue.pool(domain).start, self.domains[domain]
        ids = self.bundle.item_ids.take(pa.array(positions + first)).to_pylist()
        return tuple(
            Recommendation(item_id, name, score, source)
            for item_id, score, source in zip(ids, scores.tolist(), sources, strict=True)
        )


@dataclass(frozen=True)
class _Asked:
    """A checked request, and what its user did."""

    k: int
    domain: int
    rules: Rules
    events: Sequence[Event]
