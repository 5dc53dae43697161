"""Recommendations in process: request -> history -> scores of the pool -> rules -> best items.

Dims: B requests, I items, N items of a pool.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crossfeed.bundle import Bundle
from crossfeed.errors import HistoryStoreError, RequestError
from crossfeed.files import atomic_path, require_free
from crossfeed.scorer import Floats, Histories, Ints
from crossfeed.serving.histories.availability import ALL_AVAILABLE, Availability, Stock, Unavailable
from crossfeed.serving.histories.history import BundleHistories, Event, HistoryReader
from crossfeed.serving.ids import Id
from crossfeed.serving.recommend.answers import (
    Feed,
    PastEvents,
    Recommendation,
    Recommendations,
    Request,
    blend,
)
from crossfeed.serving.recommend.answers_table import answers_schema, answers_table
from crossfeed.serving.recommend.fallback import Fallback, Fallbacks
from crossfeed.serving.recommend.requests import RequestReader, check_quotas
from crossfeed.serving.recommend.retrieval import Retrieval, Wanted, best_first, cosine
from crossfeed.serving.recommend.rules import Choice, Rules, Source, choose, listed_in, shortage
from crossfeed.serving.recommend.timing import Note, unnoted

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
        bundle = Bundle.load(path)
        bundle.open_files()
        return cls(bundle, histories=histories, fallbacks=fallbacks)

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
        for one in requests:
            self._reader.domain(one)
        feeds = [Feed({one.domain: one.k}, one.user_id, one.history, one.rules) for one in requests]
        return [answer for [answer] in _sound(self.answer_feeds(feeds))]

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
        [parts] = _sound(self.answer_feeds([Feed(domains, user_id, history, rules)]))
        return blend(parts)

    def answer_feeds(
        self, feeds: Sequence[Feed], *, note: Note = unnoted
    ) -> list[list[Recommendations] | RequestError | HistoryStoreError]:
        """Answer several feeds with one pass of the network, each as if it were alone.

        Args:
            feeds: who wants what.
            note: is told of every stage of the work when it is done.

        Returns:
            For each the answer of each of its domains, in their order; or what is wrong with it,
            or with the store of its history.
        """
        read = [self._read(feed, place, note) for place, feed in enumerate(feeds)]
        asked = [one for found in read if isinstance(found, list) for one in found]
        answers = iter(self._answer_all(asked, note))
        return [
            [next(answers) for _ in found] if isinstance(found, list) else found for found in read
        ]

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
                    rows = map(histories.row, range(len(histories)))
                    answers = self._answer_all([_Asked(k, index, Rules(), (), row) for row in rows])
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
        vectors = self.bundle.item_vectors[pool]
        missing = self._stock.unavailable_mask(self._flags())[pool]
        choice = choose(had=found[:0], missing=missing, only=(), exclude=found)
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

    @property
    def _history_reader(self) -> HistoryReader:
        return self._histories or self._bundle_histories

    @cached_property
    def _held_back(self) -> frozenset[int]:
        """Return the indices of the domains that popularity serves."""
        return frozenset(self.domains.index(name) for name in self.bundle.held_back)

    def _rules(self, rules: Rules) -> Rules:
        """Return rules in the terms of the bundle, after checking them."""
        self._retrieval.check(rules.drawn_from, has_list=rules.candidates is not None)
        return self._reader.rules(rules)

    def _flags(self) -> Unavailable:
        return self._availability.now() if self._availability else ALL_AVAILABLE

    def _read(
        self, feed: Feed, place: int, note: Note
    ) -> list[_Asked] | RequestError | HistoryStoreError:
        """Return what is asked of each domain, or what is wrong with it."""
        try:
            check_quotas(feed.domains)
            domains = [
                self._reader.domain(Request(name, feed.user_id, feed.history, k))
                for name, k in feed.domains.items()
            ]
            rules = self._rules(feed.rules)
            began = time.perf_counter()
            # Read once: all domains see the same user.
            events = self._reader.events(feed.user_id, feed.history, reader=self._history_reader)
        except (RequestError, HistoryStoreError) as error:
            return error
        note("store", [place], began)
        known = self._reader.known_items(events)
        return [
            _Asked(k, domain, rules, events, known, place)
            for k, domain in zip(feed.domains.values(), domains, strict=True)
        ]

    def _answer_all(self, asked: Sequence[_Asked], note: Note = unnoted) -> list[Recommendations]:
        began = time.perf_counter()
        vectors = self._user_vectors(asked)
        note("encode", [one.place for one in asked], began)
        flags = self._flags()
        missing = self._stock.unavailable_mask(flags)
        return [
            self._answer(one, vector, flags, missing, note)
            for one, vector in zip(asked, vectors, strict=True)
        ]

    def _answer(
        self,
        asked: _Asked,
        vector: Floats | None,
        flags: Unavailable,
        missing: NDArray[np.bool_],
        note: Note,
    ) -> Recommendations:
        began = time.perf_counter()
        choice = self._choose(asked, missing)
        if vector is None:
            answer = self._fall_back(asked, choice, flags)
            note("rank", [asked.place], began)
            return answer
        wanted = Wanted(
            domain=asked.domain,
            user=vector,
            history=asked.known,
            allowed=choice.allowed,
            sources=asked.rules.drawn_from,
            listed=self._reader.positions(asked.rules.candidates or (), asked.domain),
            k=asked.k,
        )
        candidates = self._retrieval.find(wanted)
        note("retrieve", [asked.place], began)
        began = time.perf_counter()
        found = self._retrieval.rank(wanted, candidates)
        answer = Recommendations(
            self._named(asked.domain, found.positions, found.scores, found.sources),
            self.bundle.version,
            reason=shortage(
                choice, found=len(found.positions), k=asked.k, domain=self.domains[asked.domain]
            ),
        )
        note("rank", [asked.place], began)
        return answer

    def _user_vectors(self, asked: Sequence[_Asked]) -> list[Floats | None]:
        """Return the vector of each whose history says something to a model that serves it."""
        vectors: list[Floats | None] = [None] * len(asked)
        rows = [
            row
            for row, one in enumerate(asked)
            if len(one.known) and one.domain not in self._held_back
        ]
        if rows:
            histories = Histories.of([asked[row].known for row in rows])
            domains = np.array([asked[row].domain for row in rows], np.int64)
            found = self.bundle.encoder.user_vectors(histories, domains)
            for row, vector in zip(rows, found, strict=True):
                vectors[row] = vector
        return vectors

    def _choose(self, asked: _Asked, missing: NDArray[np.bool_]) -> Choice:
        pool, rules, known = self.bundle.catalogue.pool(asked.domain), asked.rules, asked.known
        had = known[(known >= pool.start) & (known < pool.stop)] - pool.start
        return choose(
            had=had if rules.exclude_seen else had[:0],
            missing=missing[pool],
            only=[self._reader.positions(ids, asked.domain) for ids in rules.only],
            exclude=self._reader.positions(rules.exclude or (), asked.domain),
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
        ids = self.bundle.ids.ids(positions + first)
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
    known: Ints
    """The items of those events that the model knows."""
    place: int = 0
    """Which of the feeds that are answered together it belongs to."""


def _sound(
    answers: Iterable[list[Recommendations] | RequestError | HistoryStoreError],
) -> list[list[Recommendations]]:
    """Return the answers, or raise the first that is none."""
    sound = []
    for answer in answers:
        if not isinstance(answer, list):
            raise answer
        sound.append(answer)
    return sound
