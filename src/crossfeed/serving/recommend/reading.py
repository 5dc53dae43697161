"""Queries in the terms of a bundle, checked before any work starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from crossfeed.bundle import Bundle
from crossfeed.errors import RequestError, UnknownDomainError
from crossfeed.serving.histories.history import Event
from crossfeed.serving.ids import Id, restore_id
from crossfeed.serving.recommend.query import MAX_K, Query
from crossfeed.serving.recommend.target import Lists, User

__all__ = ["CheckedQuery", "QueryReader", "check_count"]

Entry = TypeVar("Entry")

_NO_LISTS = Lists()
_SEARCH_COST = 256
"""Looking one id up in one domain takes as long as comparing so many items of a column."""


@dataclass(frozen=True, slots=True)
class CheckedQuery:
    """A query whose fields all make sense to the bundle."""

    query: Query
    domains: tuple[int, ...]
    """The index of each target domain."""
    counts: tuple[int, ...]
    """How many items of each."""
    lists: Lists
    user_id: Id | None
    """As the log has it; None if the query brings a history."""
    events: Sequence[Event]
    """The history of the query, oldest first."""


class QueryReader:
    """Reads queries in the terms of a bundle: indices of domains and items."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def check(self, query: Query) -> CheckedQuery:
        """Return a query in the terms of the bundle.

        Raises:
            UnknownDomainError: naming the known domains.
            RequestError: another field is not valid.
        """
        names = _listed(query.sources or (), "sources", "names")
        if not all(isinstance(name, str) for name in names):
            raise _invalid("sources", query.sources, "a list of names")
        counts = _check_quotas(query.domains)
        domains = tuple(map(self._bundle.catalogue.domain_index, query.domains))
        user_id, events = None, self._given(query)
        if events is None:
            user_id = restore_id(query.user_id, self._bundle.user_id_type, field="user_id")
        lists = self._lists(query, domains)
        return CheckedQuery(query, domains, counts, lists, user_id, events or ())

    def user(self, events: Sequence[Event]) -> User:
        """Return the user of some events as the model knows them."""
        found = self._bundle.ids.indices(events)
        return User(events, np.array([item for item in found if item >= 0], dtype=np.int64))

    def _given(self, query: Query) -> list[Event] | None:
        """Return the history that a query brings, oldest first."""
        if (query.user_id is None) == (query.history is None):
            raise RequestError(
                "a request names either user_id or history, and not both",
                field="user_id",
                value=query.user_id,
                allowed="one of user_id and history",
            )
        if query.history is None:
            return None
        listed = _listed(query.history, "history", "events")
        given = [self._event(entry, place) for place, entry in enumerate(listed)]
        return sorted(given, key=lambda event: event.timestamp)

    def _lists(self, query: Query, domains: Sequence[int]) -> Lists:
        """Look the ids of a query's lists up, once for all its domains."""
        if query.include is None and query.exclude is None and query.candidates is None:
            return _NO_LISTS
        found = {
            name: (self._mask(ids, domains), frozenset(ids))
            for name in ("include", "exclude", "candidates")
            if (ids := self._ids(getattr(query, name), name)) is not None
        }
        only = [found[name] for name in ("include",) if name in found]
        if query.drawn_from == {"candidates"}:
            only.append(found["candidates"])
        candidates = found["candidates"][0] if "candidates" in found else None
        return Lists(tuple(only), found.get("exclude"), candidates)

    def _mask(self, ids: Sequence[Id], domains: Sequence[int]) -> NDArray[np.bool_]:
        """Return (I,) which items the ids are; in other domains than those it does not matter."""
        catalogue, item_ids = self._bundle.catalogue, self._bundle.item_ids
        if len(ids) * len(domains) * _SEARCH_COST > catalogue.items:
            values = pa.array(ids, item_ids.type)
            return np.asarray(pc.is_in(item_ids, value_set=values))
        mask = np.zeros(catalogue.items, dtype=np.bool_)
        index = self._bundle.ids.index
        for domain in domains:
            name = catalogue.domains[domain]
            places = np.array([index(item_id, name) for item_id in ids], np.int64)
            mask[places[places >= 0]] = True
        return mask

    def _ids(self, ids: Sequence[Id] | None, name: str) -> list[Id] | None:
        if ids is None:
            return None
        listed = _listed(ids, name, "item ids")
        return [restore_id(value, self._bundle.item_id_type, field=name) for value in listed]

    def _event(self, entry: Event | Mapping[str, object], place: int) -> Event:
        """Check one entry of a history that came with the query."""
        name = f"history[{place}]"
        if isinstance(entry, Event):
            entry = entry._asdict()
        if not isinstance(entry, Mapping):
            raise _invalid(name, entry, "a mapping with item_id, domain and timestamp")
        unknown = entry.keys() - {"item_id", "domain", "timestamp"}
        missing = {"item_id", "domain"} - entry.keys()
        if unknown or missing:
            raise _invalid(name, dict(entry), "item_id, domain and, if order matters, timestamp")
        domain, timestamp = entry["domain"], entry.get("timestamp", 0)
        if not isinstance(domain, str):
            raise _invalid(f"{name}.domain", domain, "a string")
        if isinstance(timestamp, bool) or not isinstance(timestamp, int | np.integer):
            raise _invalid(f"{name}.timestamp", timestamp, "milliseconds since 1970")
        if domain not in self._bundle.catalogue.domains:
            known = self._bundle.catalogue.domains
            raise UnknownDomainError(domain, known, field=f"{name}.domain")
        item_id = restore_id(entry["item_id"], self._bundle.item_id_type, field=f"{name}.item_id")
        return Event(item_id, domain, int(timestamp))


def check_count(name: str, value: object) -> int:
    """Return how many items are asked for.

    Raises:
        RequestError: it is no integer, or not 1 to 1,000.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise _invalid(name, value, f"an integer from 1 to {MAX_K}")
    if not 1 <= value <= MAX_K:
        raise _invalid(name, value, f"1 to {MAX_K}")
    return int(value)


def _check_quotas(domains: Mapping[str, int]) -> tuple[int, ...]:
    """Return how many items of each domain are asked for, after checking that they are few."""
    if not isinstance(domains, Mapping):
        raise _invalid("domains", domains, "a mapping of each domain to a number of items")
    counts = tuple(check_count(f"domains.{name}", count) for name, count in domains.items())
    if not 1 <= sum(counts) <= MAX_K:
        raise _invalid("domains", dict(domains), f"1 to {MAX_K} items together")
    return counts


def _listed(given: Iterable[Entry], name: str, of_what: str) -> Iterable[Entry]:
    """Return what was given as a list; a text is none, though Python would take its letters."""
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise _invalid(name, given, f"a list of {of_what}")
    return given


def _invalid(name: str, value: object, allowed: str) -> RequestError:
    return RequestError(
        f"{name} must be {allowed}; it is {value!r}", field=name, value=value, allowed=allowed
    )
