"""Recommendations in process: the public face of the pipeline."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from crossfeed.bundle import Bundle
from crossfeed.errors import HistoryStoreError, RequestError, UnknownDomainError, require_type
from crossfeed.serving.histories.availability import Availability
from crossfeed.serving.histories.history import BundleHistories, Event, HistoryReader
from crossfeed.serving.ids import Id
from crossfeed.serving.recommend.answers import Recommendation, Recommendations
from crossfeed.serving.recommend.answers_table import answers_schema, answers_table
from crossfeed.serving.recommend.explaining import shortage
from crossfeed.serving.recommend.fallback import Fallbacks
from crossfeed.serving.recommend.pipeline import Answered, Pipeline, Work
from crossfeed.serving.recommend.query import DEFAULT_K, MOST_EVENTS, PastEvents, Query, Source
from crossfeed.serving.recommend.ranking import Ranked, best_first, cosine
from crossfeed.serving.recommend.reading import CheckedQuery, QueryReader, check_count
from crossfeed.serving.recommend.target import Target, User
from crossfeed.serving.recommend.timing import Note, unnoted
from crossfeed.table_files import require_table, table_writer

__all__ = ["Recommender"]

_USERS_AT_ONCE = 1024


class Recommender:
    """Answers queries with a bundle's model."""

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
            histories: knows what users did; by default the bundle's own histories.
            availability: knows which items are not available; by default all are available.
            fallbacks: the chains of domains for users of whom nothing is known.
        """
        self.bundle = bundle
        self._histories = histories
        self._reader = QueryReader(bundle)
        self._pipeline = Pipeline(bundle, availability=availability, fallbacks=fallbacks)

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
            histories: knows what users did; by default the bundle's own histories.
            fallbacks: the chains of domains for users of whom nothing is known.

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
        k: int = DEFAULT_K,
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
            UnknownDomainError: naming the known domains.
            RequestError: another field is not valid.
        """
        query = Query(
            domains=self._one(domain, k),
            user_id=user_id,
            history=history,
            exclude_seen=exclude_seen,
            include=include,
            exclude=exclude,
            candidates=candidates,
            sources=sources,
        )
        return self.recommend_many([query])[0]

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
            Exactly as many items of each domain, spread evenly (see `reranking.blend`), or fewer
            and the reason.

        Raises:
            UnknownDomainError: naming the known domains.
            RequestError: another field is not valid.
        """
        query = Query(
            domains=domains,
            user_id=user_id,
            history=history,
            exclude_seen=exclude_seen,
            include=include,
            exclude=exclude,
        )
        return self.recommend_many([query])[0]

    def recommend_many(self, queries: Sequence[Query]) -> list[Recommendations]:
        """Answer several queries with one pass of the network; the same answers as one by one.

        Raises:
            UnknownDomainError: naming the known domains.
            RequestError: another field is not valid.
            ConfigError: a query is of another type, such as a dictionary.
        """
        for query in queries:
            require_type(query, Query, "query", hint="Query(user_id='u', domains={'books': 10})")
        answers = []
        for answered in self.answer(queries):
            if not isinstance(answered, Answered):
                raise answered
            answers.append(answered.recommendations)
        return answers

    def answer(
        self, queries: Sequence[Query], *, note: Note = unnoted
    ) -> list[Answered | RequestError | HistoryStoreError]:
        """Answer several queries together, each as if it were alone.

        Args:
            queries: who wants what.
            note: is told of every stage of the work when it is done.

        Returns:
            For each its answer, or what is wrong with it or with the store of its history.
        """
        checked = [self._checked(query) for query in queries]
        read = self._users(checked, note)
        answers = iter(self._pipeline.answer([one for one in read if isinstance(one, Work)], note))
        return [next(answers) if isinstance(one, Work) else one for one in read]

    def recommend_all(
        self,
        out: Path | str,
        *,
        domain: str | None = None,
        k: int = DEFAULT_K,
        overwrite: bool = False,
    ) -> Path:
        """Write recommendations for every user of the bundle's histories to a file.

        Columns user_id, domain, rank (from 1), item_id, score, source; memory does not grow with
        the number of users.

        Args:
            out: the file to write: Parquet, CSV or JSONL by its suffix.
            domain: the target domain; all of them if None.
            k: how many items, 1 to 1000.
            overwrite: replace an existing file.

        Raises:
            RequestError: the domain or k is not valid, or the bundle holds no histories.
            OutputError: `out` exists and may not be replaced, or cannot be written.
        """
        out = Path(out)
        columns = answers_schema(self.bundle).names
        require_table(
            out,
            columns,
            name="file of recommendations",
            inputs=[self.bundle.path],
            overwrite=overwrite,
        )
        names = self.domains if domain is None else (domain,)
        checked = [
            self._reader.check(Query(domains=self._one(name, k), history=())) for name in names
        ]
        if not self.bundle.has_histories:
            raise RequestError(
                f"the bundle '{self.bundle.path}' holds no histories, so no users to recommend to",
                field="bundle",
                value=str(self.bundle.path),
                allowed="a bundle exported with histories",
            )
        schema = answers_schema(self.bundle)
        with table_writer(out, schema) as writer:
            for user_ids, histories in self._bundle_histories.chunks(_USERS_AT_ONCE):
                users = [User((), histories.row(row)) for row in range(len(histories))]
                for one in checked:
                    found = self._pipeline.answer([Work(one, user) for user in users])
                    answers = [answered.recommendations for answered in found]
                    writer.write_table(answers_table(self.bundle, user_ids.to_pylist(), answers))
        return out

    def similar_items(self, item_id: Id, *, domain: str, k: int = DEFAULT_K) -> Recommendations:
        """Return the items of the same domain whose vectors point most nearly the same way.

        Raises:
            UnknownDomainError: naming the known domains.
            RequestError: the model does not know the item, or k is not valid.
        """
        target = self._itself_excluded(item_id, domain, k)
        assert target.lists.exclude is not None
        [own] = np.flatnonzero(target.lists.exclude[0][target.pool])
        allowed = self._pipeline.allowed(target)
        positions = np.flatnonzero(allowed.mask)
        vectors = self.bundle.item_vectors[target.pool]
        scores = cosine(vectors, vectors[own])[positions]
        best = best_first(scores, k)
        ids = self.bundle.ids.ids(positions[best] + target.pool.start)
        items = tuple(
            Recommendation(found, domain, score, "pool")
            for found, score in zip(ids, scores[best].tolist(), strict=True)
        )
        reason = shortage(target, allowed, Ranked(items, len(items)))
        return Recommendations(items, self.bundle.version, reason=reason)

    @cached_property
    def _bundle_histories(self) -> BundleHistories:
        return BundleHistories(self.bundle)

    @property
    def _history_reader(self) -> HistoryReader:
        return self._bundle_histories if self._histories is None else self._histories

    def _one(self, domain: str, k: int) -> Mapping[str, int]:
        """Return one domain as the domains of a query."""
        if domain not in self.domains:  # whatever it is
            raise UnknownDomainError(domain, self.domains)
        return {domain: check_count("k", k)}

    def _checked(self, query: Query) -> CheckedQuery | RequestError:
        try:
            checked = self._reader.check(query)
            self._pipeline.check(checked)
        except RequestError as error:
            return error
        return checked

    def _users(
        self, checked: Sequence[CheckedQuery | RequestError], note: Note
    ) -> list[Work | RequestError | HistoryStoreError]:
        """Return each query with what is known of its user; the store is read once for all."""
        began = time.perf_counter()
        stored = {
            place: one.user_id
            for place, one in enumerate(checked)
            if isinstance(one, CheckedQuery) and one.user_id is not None
        }
        events: dict[int, Sequence[Event]] = {}
        failure: HistoryStoreError | None = None
        if stored:
            try:
                read = self._history_reader.read_many(list(stored.values()), limit=MOST_EVENTS)
                events = dict(zip(stored, read, strict=True))
                note("store", list(stored), began)
            except HistoryStoreError as error:
                failure = error
        return [self._work(one, place, events, failure) for place, one in enumerate(checked)]

    def _work(
        self,
        checked: CheckedQuery | RequestError,
        place: int,
        events: Mapping[int, Sequence[Event]],
        failure: HistoryStoreError | None,
    ) -> Work | RequestError | HistoryStoreError:
        if isinstance(checked, RequestError):
            return checked
        if failure is not None and checked.user_id is not None:
            return failure
        return Work(checked, self._reader.user(events.get(place, checked.events)), place)

    def _itself_excluded(self, item_id: Id, domain: str, k: int) -> Target:
        """Return a domain with all its items allowed except one, which it must have."""
        query = Query(domains=self._one(domain, k), history=(), exclude=[item_id])
        checked = self._reader.check(query)
        [index], pool = checked.domains, self.bundle.catalogue.pool(checked.domains[0])
        assert checked.lists.exclude is not None
        if not checked.lists.exclude[0][pool].any():
            raise RequestError(
                f"item '{item_id}' is not one of the model's items in '{domain}'",
                field="item_id",
                value=item_id,
                allowed=f"an item of '{domain}' that training knew",
            )
        nobody = User((), np.zeros(0, np.int64))
        return Target(query, checked.lists, index, domain, pool, k, nobody)
