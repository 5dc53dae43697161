"""Bodies and answers of the service; unknown fields and wrong types are refused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    StrictStr,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.config import JsonDict, JsonValue

from crossfeed.errors import RequestError
from crossfeed.serving.histories.history import POSSIBLE_TIMES, is_possible_time
from crossfeed.serving.ids import ANY_ID, LONGEST_ID, Id, is_id
from crossfeed.serving.recommend.answers import Recommendation, Recommendations, Step
from crossfeed.serving.recommend.query import DEFAULT_K, MAX_K, MOST_EVENTS, SOURCES, Query, Source

__all__ = [
    "Answer",
    "AvailabilityBody",
    "AvailabilityStored",
    "DomainFacts",
    "EventBody",
    "EventsBody",
    "EventsStored",
    "Forgotten",
    "HistoryParameters",
    "ItemFlagBody",
    "ModelFacts",
    "PastEvent",
    "PinBody",
    "PinFacts",
    "Problem",
    "Readiness",
    "RecommendBody",
    "RecommendParameters",
    "StoreFacts",
    "UserHistory",
    "refuse_too_many_errors",
]

_SECONDS_BELOW = 100_000_000_000
"""Numbers below are seconds (until the year 5138), others milliseconds (from 1973 on)."""
_MICROSECONDS_FROM = 10**14
_NANOSECONDS_FROM = 10**17
_MOST_ERRORS = 100
_MOST_DOMAINS = 100


def _milliseconds(value: object) -> int:
    """Return a time given in seconds, milliseconds or ISO 8601 as milliseconds since 1970."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("text must be ISO 8601, such as 2026-03-01T12:00:00Z") from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        milliseconds = round(moment.timestamp() * 1000)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be seconds or milliseconds since 1970, or ISO 8601 text")
    elif value != value or abs(value) >= 10**20:
        raise ValueError("must be a finite time")
    elif abs(value) >= _MICROSECONDS_FROM:
        unit = "microseconds" if abs(value) < _NANOSECONDS_FROM else "nanoseconds"
        raise ValueError(f"must be seconds or milliseconds since 1970; these are {unit}")
    else:
        milliseconds = round(value * 1000) if abs(value) < _SECONDS_BELOW else round(value)
    if not is_possible_time(milliseconds):
        raise ValueError(f"must be {POSSIBLE_TIMES}")
    return milliseconds


def _id(value: object) -> Id:
    if not is_id(value):
        raise ValueError(f"must be {ANY_ID}")
    return value


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_K:
        raise ValueError(f"must be an integer from 1 to {MAX_K}")
    return value


def _count_in_text(value: object) -> int:
    return _count(
        int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else None
    )


def _few(value: object) -> object:
    """Refuse a map of too many domains before each of its entries is looked at."""
    if isinstance(value, dict) and len(value) > _MOST_DOMAINS:
        raise ValueError(f"must name at most {_MOST_DOMAINS} domains; it names {len(value):,}")
    return value


_ID_SCHEMA = {"anyOf": [{"type": "string", "minLength": 1}, {"type": "integer"}]}

AnyId = Annotated[Id, PlainValidator(_id), WithJsonSchema(_ID_SCHEMA)]
Name = Annotated[StrictStr, Field(min_length=1, max_length=LONGEST_ID)]
Time = Annotated[int, BeforeValidator(_milliseconds)]
_COUNT_SCHEMA = {"type": "integer", "minimum": 1, "maximum": MAX_K}
Count = Annotated[int, PlainValidator(_count), WithJsonSchema(_COUNT_SCHEMA)]
CountInText = Annotated[int, PlainValidator(_count_in_text), WithJsonSchema(_COUNT_SCHEMA)]
Ids = Annotated[list[AnyId], Field(max_length=10_000, fail_fast=True)]


def refuse_too_many_errors(error: ValidationError) -> None:
    """Refuse a body with more errors than one can read: to describe 100,000 takes seconds.

    Raises:
        RequestError: there are too many.
    """
    if error.error_count() > _MOST_ERRORS:
        raise RequestError(
            f"the body has {error.error_count():,} errors, too many to name them",
            field="body",
            value=None,
            allowed="what /docs describes",
        ) from None


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_EVENT_EXAMPLE: JsonDict = {"item_id": "a17", "domain": "articles", "timestamp": 1_700_000_000}

_RECOMMEND_EXAMPLES: list[JsonValue] = [
    {"user_id": "ann", "domain": "books", "k": 10},
    {"history": [_EVENT_EXAMPLE], "domain": "books", "k": 5, "exclude": ["b1"]},
    {"user_id": "ann", "domains": {"books": 5, "videos": 3}},
]

_NEW_EVENT_EXAMPLE: JsonDict = {"event_id": "e1", "user_id": "ann", **_EVENT_EXAMPLE}

_FLAG_EXAMPLE: JsonDict = {"item_id": "b2", "domain": "books", "available": False}


class PastEvent(_Body):
    """Something that a user did."""

    model_config = ConfigDict(json_schema_extra={"example": _EVENT_EXAMPLE})

    item_id: AnyId
    domain: Name
    timestamp: Time = Field(description="Seconds or milliseconds since 1970, or ISO 8601.")


class RecommendBody(_Body):
    """A request for recommendations: exactly one of `user_id` and `history`.

    One `domain` with `k`, or `domains` with a number of items for each, blended into one feed.
    """

    model_config = ConfigDict(json_schema_extra={"examples": _RECOMMEND_EXAMPLES})

    domain: Name | None = None
    domains: Annotated[dict[Name, Count], BeforeValidator(_few)] | None = Field(
        default=None,
        min_length=1,
        max_length=_MOST_DOMAINS,
        description="How many items of each domain; together at most 1000.",
    )
    user_id: AnyId | None = None
    history: Annotated[list[PastEvent], Field(max_length=MOST_EVENTS, fail_fast=True)] | None = None
    k: Count = DEFAULT_K
    exclude_seen: StrictBool = True
    include: Ids | None = Field(default=None, description="Recommend these items alone.")
    exclude: Ids | None = Field(default=None, description="Never recommend these items.")
    candidates: Ids | None = Field(default=None, description="Rank these instead of the pool.")
    sources: Annotated[list[Source], Field(min_length=1, max_length=len(SOURCES))] | None = Field(
        default=None, description="Where items come from, all of these together."
    )

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.user_id is None) == (self.history is None):
            raise ValueError("give either user_id or history, and not both")
        if (self.domain is None) == (self.domains is None):
            raise ValueError("give either domain or domains, and not both")
        if self.domains is not None:
            if self.candidates is not None or "k" in self.model_fields_set:
                raise ValueError("k and candidates belong to domain; domains says how many of each")
            if sum(self.domains.values()) > MAX_K:
                raise ValueError(f"domains may ask for {MAX_K} items together")
        return self

    def to_query(self) -> Query:
        """Return what is asked for."""
        history = self.history
        return Query(
            domains=self.domains or {str(self.domain): self.k},
            user_id=self.user_id,
            history=None if history is None else [dict(event) for event in history],
            exclude_seen=self.exclude_seen,
            include=self.include,
            exclude=self.exclude,
            candidates=self.candidates,
            sources=self.sources,
        )


class RecommendParameters(_Body):
    """A request for recommendations in the query of a URL."""

    domain: Name
    k: CountInText = DEFAULT_K

    def to_query(self, user_id: Id) -> Query:
        """Return what is asked for a user."""
        return Query(domains={self.domain: self.k}, user_id=user_id)


class EventBody(PastEvent):
    """An event on its way into the history store; `event_id` makes sending it twice harmless."""

    model_config = ConfigDict(json_schema_extra={"example": _NEW_EVENT_EXAMPLE})

    event_id: Name
    user_id: AnyId


class EventsBody(_Body):
    """Events to store."""

    model_config = ConfigDict(json_schema_extra={"example": {"events": [_NEW_EVENT_EXAMPLE]}})

    events: Annotated[list[EventBody], Field(min_length=1, max_length=1000, fail_fast=True)]


class ItemFlagBody(_Body):
    """Whether an item may be recommended from now on."""

    model_config = ConfigDict(json_schema_extra={"example": _FLAG_EXAMPLE})

    item_id: AnyId
    domain: Name
    available: StrictBool


class AvailabilityBody(_Body):
    """Items that are available, or no longer."""

    model_config = ConfigDict(json_schema_extra={"example": {"items": [_FLAG_EXAMPLE]}})

    items: Annotated[list[ItemFlagBody], Field(min_length=1, max_length=10_000, fail_fast=True)]


class AvailabilityStored(BaseModel):
    """How many flags are other than before."""

    changed: int


class EventsStored(BaseModel):
    """How many events are now on disk for the first time, and how many were before."""

    accepted: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Recommended items, best first."""

    items: tuple[Recommendation, ...]
    model_version: str
    fallback: Step | None
    reason: str | None
    degraded: Annotated[
        str | None, Field(description="What failed, so that less of the user was known.")
    ]
    took_ms: float

    @classmethod
    def of(cls, found: Recommendations, *, took_ms: float, degraded: str | None = None) -> Answer:
        """Return recommendations as an answer."""
        return cls(
            found.items,
            found.model_version,
            found.fallback,
            found.reason,
            degraded,
            round(took_ms, 3),
        )

    def to_json(self) -> bytes:
        """Return it as it is sent."""
        return _ANSWER.dump_json(self)


_ANSWER = TypeAdapter(Answer)


class HistoryParameters(_Body):
    """A page of a history: the newest events, or older ones."""

    limit: Annotated[
        int, Field(ge=1, le=MOST_EVENTS, description="How many events the page has at most.")
    ] = MOST_EVENTS
    after: Annotated[
        int, Field(ge=0, le=10**9, description="How many newer events to pass over.")
    ] = 0


class UserHistory(BaseModel):
    """The stored events of a user, oldest first; times in milliseconds since 1970."""

    user_id: str | int
    events: list[_StoredEvent]
    after: int | None = Field(description="The `after` of the page of older events, if any.")


class _StoredEvent(BaseModel):
    item_id: str | int
    domain: str
    timestamp: int


class Forgotten(BaseModel):
    """How many events of a user were erased."""

    user_id: str | int
    forgotten: int


class DomainFacts(BaseModel):
    """One domain that can be asked for."""

    domain: str
    items: int


class ModelFacts(BaseModel):
    """Facts about the model in service."""

    model_config = ConfigDict(protected_namespaces=())

    model_version: str
    pinned_version: str | None = Field(description="What should be in service; null if nothing is.")
    versions: list[str] = Field(description="What can be pinned, the newest first.")
    crossfeed: str
    encoder: Literal["onnxruntime", "torch"] = Field(description="What encodes users.")
    card: dict[str, object]


class PinBody(BaseModel):
    """The model that should be in service."""

    model_config = ConfigDict(extra="forbid")

    version: Annotated[
        str, Field(min_length=1, max_length=200, description="Or the name of its folder.")
    ]


class PinFacts(BaseModel):
    """The pin in force."""

    model_config = ConfigDict(protected_namespaces=())

    pinned_version: str
    model_version: str = Field(description="The model in service in this process.")


class StoreFacts(BaseModel):
    """How the history store is."""

    reachable: bool
    durable: bool | None = Field(description="Whether acknowledged events outlive a crash.")
    durability: str


class Readiness(BaseModel):
    """Whether requests should be sent here.

    `degraded` answers without the history store, or by another model than the pinned one.
    """

    model_config = ConfigDict(protected_namespaces=())

    status: Literal["ready", "degraded", "stopping"]
    model_version: str
    pinned_version: str | None = Field(description="What should be in service; null if nothing is.")
    problem: str | None = Field(description="Why another model is in service.")
    history_store: StoreFacts


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    field: str | None = None
    value: str | int | float | bool | None = None
    allowed: str | None = None
