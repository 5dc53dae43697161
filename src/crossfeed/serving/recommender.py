"""Recommendations in process: request -> history -> scores of the pool -> rules -> best items.

Dims: B requests, N items of a pool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crossfeed.bundle import Bundle
from crossfeed.errors import RequestError
from crossfeed.files import atomic_path, require_free
from crossfeed.scorer import Floats, Histories, Ints
from crossfeed.serving.answers import MAX_K, Recommendation, Recommendations, Request, blend
from crossfeed.serving.history import BundleHistories, Event, HistoryReader, Id, restore_id
from crossfeed.serving.retrieval import cosine, top_k
from crossfeed.serving.rules import Rules, allowed_items, shortage

__all__ = ["Recommender"]

_USERS_AT_ONCE = 1024


class Recommender:
    """Answers requests with a bundle's model."""

    def __init__(self, bundle: Bundle, *, histories: HistoryReader | None = None) -> None:
        self.bundle = bundle
        self._histories = histories

    @classmethod
    def load(cls, path: Path | str, *, histories: HistoryReader | None = None) -> Recommender:
        """Open a bundle for recommending.

        Args:
            path: the bundle's folder.
            histories: who knows what users did; by default the bundle's own histories.

        Raises:
            BundleError: the bundle is missing, damaged or of another format version.
        """
        return cls(Bundle.load(path), histories=histories)

    @property
    def domains(self) -> tuple[str, ...]:
        """Return the domains that can be asked for."""
        return self.bundle.catalogue.domains

    def recommend(
        self,
        *,
        domain: str,
        user_id: Id | None = None,
        history: Sequence[Event | Mapping[str, object]] | None = None,
        k: int = 10,
        exclude_seen: bool = True,
        include: Sequence[Id] | None = None,
        exclude: Sequence[Id] | None = None,
        candidates: Sequence[Id] | None = None,
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

        Returns:
            Exactly k items, or as many as the rules leave and the reason.

        Raises:
            UnknownDomainError: naming the domains that there are.
            RequestError: another field is not valid.
        """
        rules = Rules(exclude_seen, include, exclude, candidates)
        return self.recommend_many([Request(domain, user_id, history, k, rules)])[0]

    def feed(
        self,
        domains: Mapping[str, int],
        *,
        user_id: Id | None = None,
        history: Sequence[Event | Mapping[str, object]] | None = None,
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
        requests = [Request(name, user_id, history, k, rules) for name, k in domains.items()]
        indices = [self._check(request) for request in requests]
        if not 1 <= sum(domains.values()) <= MAX_K:
            raise _invalid("domains", dict(domains), f"1 to {MAX_K} items together")
        known = self._history(requests[0])  # read once: all domains see the same user
        return blend(self._answers(requests, indices, [known] * len(requests)))

    def recommend_many(self, requests: Sequence[Request]) -> list[Recommendations]:
        """Answer several requests with one pass of the network; the same answers as one by one."""
        domains = [self._check(request) for request in requests]
        return self._answers(requests, domains, [self._history(request) for request in requests])

    def _answers(
        self, requests: Sequence[Request], domains: Sequence[int], known_items: Sequence[Ints]
    ) -> list[Recommendations]:
        histories = Histories.of(list(known_items))
        known = np.flatnonzero(np.diff(histories.offsets))
        vectors = self._user_vectors(histories, np.array(domains, np.int64), known)
        return [
            self._answer(request, domain, histories.row(row), vectors.get(row))
            for row, (request, domain) in enumerate(zip(requests, domains, strict=True))
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
        domains = self.domains if domain is None else (domain,)
        for name in domains:
            self._check(Request(name, history=[], k=k))
        if not self.bundle.has_histories:
            raise RequestError(
                f"the bundle '{self.bundle.path}' holds no histories, so no users to recommend to",
                field="bundle",
                value=str(self.bundle.path),
                allowed="a bundle exported with histories",
            )
        with atomic_path(out) as temporary, pq.ParquetWriter(temporary, self._schema()) as writer:
            for user_ids, histories in self._bundle_histories.chunks(_USERS_AT_ONCE):
                for name in domains:
                    writer.write_table(self._recommend_chunk(user_ids, histories, name, k))
        return out

    def similar_items(self, item_id: Id, *, domain: str, k: int = 10) -> Recommendations:
        """Return the items of the same domain whose vectors point most nearly the same way.

        Raises:
            UnknownDomainError: naming the domains that there are.
            RequestError: the model does not know the item, or k is not valid.
        """
        index = self._check(Request(domain, history=[], k=k))
        pool = self.bundle.catalogue.pool(index)
        found = self._positions([item_id], index, field="item_id")
        if not len(found):
            raise RequestError(
                f"item '{item_id}' is not one of the model's items in '{domain}'",
                field="item_id",
                value=item_id,
                allowed=f"an item of '{domain}' that training knew",
            )
        vectors = self.bundle.scorer.item_vectors[pool]
        allowed = np.ones(len(vectors), dtype=np.bool_)
        allowed[found] = False
        scores = cosine(vectors, vectors[found[0]])
        best = top_k(scores, allowed, k)
        return Recommendations(
            self._named(best, scores, index, "pool"),
            self.bundle.version,
            reason=shortage(len(best), k, domain=domain, size=len(vectors) - 1, seen=0),
        )

    @cached_property
    def _bundle_histories(self) -> BundleHistories:
        return BundleHistories(self.bundle)

    @cached_property
    def _held_back(self) -> Ints:
        """Return the indices of the domains that popularity serves."""
        names = self.bundle.held_back
        return np.array([self.domains.index(name) for name in names], dtype=np.int64)

    def _check(self, request: Request) -> int:
        """Return the index of the request's domain after checking the request."""
        domain = self.bundle.catalogue.domain_index(request.domain)
        if isinstance(request.k, bool) or not isinstance(request.k, int):
            raise _invalid("k", request.k, f"an integer from 1 to {MAX_K}")
        if not 1 <= request.k <= MAX_K:
            raise _invalid("k", request.k, f"1 to {MAX_K}")
        if (request.user_id is None) == (request.history is None):
            raise RequestError(
                "a request names either user_id or history, and not both",
                field="user_id",
                value=request.user_id,
                allowed="one of user_id and history",
            )
        return domain

    def _history(self, request: Request) -> Ints:
        """Return the known items of a request's user, oldest first."""
        if request.history is None:
            user_id = restore_id(request.user_id, self.bundle.user_id_type, field="user_id")
            reader = self._histories or self._bundle_histories
            events = list(reader.read(user_id))
        else:
            given = [self._event(entry, place) for place, entry in enumerate(request.history)]
            events = sorted(given, key=lambda event: event.timestamp)
        index = self.bundle.item_index
        found = [index(event.item_id, event.domain) for event in events]
        return np.array([item for item in found if item >= 0], dtype=np.int64)

    def _event(self, entry: Event | Mapping[str, object], place: int) -> Event:
        """Check one entry of a history that came with the request."""
        name = f"history[{place}]"
        if isinstance(entry, Event):
            entry = {
                "item_id": entry.item_id,
                "domain": entry.domain,
                "timestamp": entry.timestamp,
            }
        if not isinstance(entry, Mapping):
            raise _invalid(name, entry, "a mapping with item_id, domain and timestamp")
        unknown = entry.keys() - {"item_id", "domain", "timestamp"}
        missing = {"item_id", "domain"} - entry.keys()
        if unknown or missing:
            raise _invalid(name, dict(entry), "item_id, domain and, if order matters, timestamp")
        domain, timestamp = entry["domain"], entry.get("timestamp", 0)
        if not isinstance(domain, str):
            raise _invalid(f"{name}.domain", domain, "a string")
        if isinstance(timestamp, bool) or not isinstance(timestamp, int):
            raise _invalid(f"{name}.timestamp", timestamp, "milliseconds since 1970")
        self.bundle.catalogue.domain_index(domain)
        item_id = restore_id(entry["item_id"], self.bundle.item_id_type, field=f"{name}.item_id")
        return Event(item_id, domain, timestamp)

    def _user_vectors(self, histories: Histories, domains: Ints, rows: Ints) -> dict[int, Floats]:
        """Return the vectors of those of `rows` whose domain the model serves."""
        rows = rows[~np.isin(domains[rows], self._held_back)]
        if not len(rows):
            return {}
        given = Histories.of([histories.row(row) for row in rows])
        vectors = self.bundle.scorer.user_vectors(given, domains[rows])
        return dict(zip(rows.tolist(), vectors, strict=True))

    def _answer(
        self, request: Request, domain: int, history: Ints, vector: Floats | None
    ) -> Recommendations:
        pool = self.bundle.catalogue.pool(domain)
        size, rules = pool.stop - pool.start, request.rules
        seen = np.unique(history[(history >= pool.start) & (history < pool.stop)] - pool.start)
        allowed = allowed_items(
            size,
            seen=seen if rules.exclude_seen else seen[:0],
            include=self._listed(rules.include, domain, "include"),
            exclude=self._positions(rules.exclude or (), domain, field="exclude"),
            candidates=self._listed(rules.candidates, domain, "candidates"),
        )
        scores = self._scores(vector, pool)
        best = top_k(scores, allowed, request.k)
        source = "pool" if rules.candidates is None else "candidates"
        return Recommendations(
            self._named(best, scores, domain, source if vector is not None else "popular"),
            self.bundle.version,
            fallback=None if vector is not None else "popular",
            reason=shortage(
                len(best),
                request.k,
                domain=request.domain,
                size=size,
                seen=len(seen) if rules.exclude_seen else 0,
            ),
        )

    def _scores(self, vector: Floats | None, pool: slice) -> Floats:
        """Return (N,) scores of a pool; without a user's vector the items' clicks."""
        if vector is None:
            return self.bundle.clicks[pool].astype(np.float32)
        scorer = self.bundle.scorer
        return scorer.item_vectors[pool] @ vector + scorer.item_biases[pool]

    def _listed(self, ids: Sequence[Id] | None, domain: int, name: str) -> Ints | None:
        return None if ids is None else self._positions(ids, domain, field=name)

    def _positions(self, ids: Sequence[Id], domain: int, *, field: str) -> Ints:
        """Return the positions in the pool of the ids that the model knows there."""
        pool, name = self.bundle.catalogue.pool(domain), self.domains[domain]
        restored = [restore_id(value, self.bundle.item_id_type, field=field) for value in ids]
        found = np.array([self.bundle.item_index(item_id, name) for item_id in restored], np.int64)
        positions: Ints = found[(found >= pool.start) & (found < pool.stop)] - pool.start
        return positions

    def _named(
        self, positions: Ints, scores: Floats, domain: int, source: str
    ) -> tuple[Recommendation, ...]:
        first, name = self.bundle.catalogue.pool(domain).start, self.domains[domain]
        ids = self.bundle.item_ids.take(pa.array(positions + first)).to_pylist()
        values = scores[positions].tolist()
        return tuple(
            Recommendation(item_id, name, score, source)
            for item_id, score in zip(ids, values, strict=True)
        )

    def _recommend_chunk(
        self, user_ids: pa.Array, histories: Histories, name: str, k: int
    ) -> pa.Table:
        domain = self.bundle.catalogue.domain_index(name)
        rows = np.flatnonzero(np.diff(histories.offsets))
        targets = np.full(len(histories), domain, np.int64)
        vectors = self._user_vectors(histories, targets, rows)
        request = Request(name, history=[], k=k)
        answers = [
            self._answer(request, domain, histories.row(row), vectors.get(row))
            for row in range(len(histories))
        ]
        counts = [len(answer.items) for answer in answers]
        items = [item for answer in answers for item in answer.items]
        return pa.table(
            {
                "user_id": user_ids.take(pa.array(np.repeat(np.arange(len(counts)), counts))),
                "domain": [name] * len(items),
                "rank": [rank for count in counts for rank in range(1, count + 1)],
                "item_id": pa.array([item.item_id for item in items], self.bundle.item_id_type),
                "score": [item.score for item in items],
                "source": [item.source for item in items],
            },
            schema=self._schema(),
        )

    def _schema(self) -> pa.Schema:
        return pa.schema(
            {
                "user_id": self.bundle.user_id_type,
                "domain": pa.string(),
                "rank": pa.int32(),
                "item_id": self.bundle.item_id_type,
                "score": pa.float32(),
                "source": pa.string(),
            }
        )


def _invalid(name: str, value: object, allowed: str) -> RequestError:
    return RequestError(
        f"{name} must be {allowed}; it is {value!r}", field=name, value=value, allowed=allowed
    )
