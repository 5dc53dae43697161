"""What can be asked for, checked before any work starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from crossfeed.bundle import Bundle
from crossfeed.errors import RequestError
from crossfeed.scorer import Ints
from crossfeed.serving.histories.history import Event, HistoryReader
from crossfeed.serving.ids import Id, restore_id
from crossfeed.serving.recommend.answers import MAX_K, PastEvents, Request
from crossfeed.serving.recommend.rules import Rules

__all__ = ["RequestReader", "check_quotas"]


class RequestReader:
    """Reads requests in the terms of a bundle: indices of domains, items and positions."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def domain(self, request: Request) -> int:
        """Return the index of a request's domain after checking the request.

        Raises:
            UnknownDomainError: naming the domains that there are.
            RequestError: k, or who is asked for, is not valid.
        """
        domain = self._bundle.catalogue.domain_index(request.domain)
        _check_count("k", request.k)
        if (request.user_id is None) == (request.history is None):
            raise RequestError(
                "a request names either user_id or history, and not both",
                field="user_id",
                value=request.user_id,
                allowed="one of user_id and history",
            )
        return domain

    def events(
        self, user_id: Id | None, history: PastEvents | None, *, reader: HistoryReader
    ) -> Sequence[Event]:
        """Return what the user did, oldest first: from the request, or from who knows it.

        Raises:
            RequestError: an id or an entry of the history is not valid.
        """
        if history is None:
            known_type = self._bundle.user_id_type
            return reader.read_many([restore_id(user_id, known_type, field="user_id")])[0]
        given = [self._event(entry, place) for place, entry in enumerate(history)]
        return sorted(given, key=lambda event: event.timestamp)

    def known_items(self, events: Sequence[Event]) -> Ints:
        """Return the item indices of those events whose item the model knows."""
        found = self._bundle.ids.indices(events)
        return np.array([item for item in found if item >= 0], dtype=np.int64)

    def rules(self, rules: Rules) -> Rules:
        """Return rules with the ids of their lists as the log has them.

        Raises:
            RequestError: one of them is no id.
        """
        return Rules(
            rules.exclude_seen,
            self._ids(rules.include, "include"),
            self._ids(rules.exclude, "exclude"),
            self._ids(rules.candidates, "candidates"),
            rules.sources,
        )

    def positions(self, ids: Sequence[Id], domain: int) -> Ints:
        """Return the positions in a domain's pool of the ids that the model knows there."""
        if not ids:
            return np.zeros(0, np.int64)
        pool, name = self._bundle.catalogue.pool(domain), self._bundle.catalogue.domains[domain]
        found = np.array([self._bundle.ids.index(item_id, name) for item_id in ids], np.int64)
        positions: Ints = found[(found >= pool.start) & (found < pool.stop)] - pool.start
        return positions

    def _ids(self, ids: Sequence[Id] | None, name: str) -> list[Id] | None:
        if ids is None:
            return None
        return [restore_id(value, self._bundle.item_id_type, field=name) for value in ids]

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
        self._bundle.catalogue.domain_index(domain)
        item_id = restore_id(entry["item_id"], self._bundle.item_id_type, field=f"{name}.item_id")
        return Event(item_id, domain, timestamp)


def check_quotas(domains: Mapping[str, int]) -> None:
    """Check how many items of each domain a feed is to have.

    Raises:
        RequestError: there is no domain, a quota is below 1, or they add up to too many.
    """
    for name, quota in domains.items():
        _check_count(f"domains.{name}", quota)
    if not 1 <= sum(domains.values()) <= MAX_K:
        raise _invalid("domains", dict(domains), f"1 to {MAX_K} items together")


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _invalid(name, value, f"an integer from 1 to {MAX_K}")
    if not 1 <= value <= MAX_K:
        raise _invalid(name, value, f"1 to {MAX_K}")


def _invalid(name: str, value: object, allowed: str) -> RequestError:
    return RequestError(
        f"{name} must be {allowed}; it is {value!r}", field=name, value=value, allowed=allowed
    )
