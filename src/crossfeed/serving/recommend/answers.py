"""What is asked of the recommender and what it answers; several answers blended into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from crossfeed.serving.histories.history import Event
from crossfeed.serving.ids import Id
from crossfeed.serving.recommend.rules import Rules

__all__ = [
    "DEFAULT_K",
    "FALLBACK_STEPS",
    "MAX_K",
    "Feed",
    "PastEvents",
    "Recommendation",
    "Recommendations",
    "Request",
    "Step",
    "blend",
]

DEFAULT_K = 10
MAX_K = 1000

Step = Literal["recent", "popular", "listed"]
"""What is recommended where nothing is known of a user: by clicks among the domain's newest tenth;
by all clicks; a list that somebody wrote."""

FALLBACK_STEPS: tuple[Step, ...] = ("recent", "popular", "listed")
"""The usual order."""

PastEvents = Sequence[Event | Mapping[str, object]]
"""Events in any order; mappings have item_id, domain and, if order matters, timestamp."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One recommended item."""

    item_id: Id
    domain: str
    score: float
    """Higher is better; comparable within one domain and one kind of source alone."""
    source: str
    """Where it comes from: `candidates` (the request's list), `generator` (its draws), `pool` (the
    domain's items, or `index`, an approximation of them), or a step of the fallback (`recent`,
    `popular`, `listed`)."""


@dataclass(frozen=True, slots=True)
class Recommendations:
    """The answer to one request."""

    items: tuple[Recommendation, ...]
    """Best first."""
    model_version: str
    fallback: Step | None = None
    """Where nothing usable is known of the user, the last step of the fallback that was needed."""
    reason: str | None = None
    """Why there are fewer items than asked for, else None."""


@dataclass(frozen=True)
class Request:
    """Who wants what: exactly one of `user_id` and `history`, a target domain, and rules."""

    domain: str
    user_id: Id | None = None
    history: PastEvents | None = None
    k: int = DEFAULT_K
    rules: Rules = field(default_factory=Rules)


@dataclass(frozen=True)
class Feed:
    """Who wants how many items of which domains: exactly one of `user_id` and `history`."""

    domains: Mapping[str, int]
    """Target domain -> how many of its items; one domain is a feed of one."""
    user_id: Id | None = None
    history: PastEvents | None = None
    rules: Rules = field(default_factory=Rules)


def blend(answers: Sequence[Recommendations]) -> Recommendations:
    """Return one feed of several domains' answers, each domain spread evenly over it.

    Scores of different domains cannot be compared: each is known up to a constant for the user
    and the domain. So the j-th of a domain's n items (from 0) takes the place (j + 1/2) / n; at
    equal places the domain that was named first comes first, and every domain keeps its order.

    Its `fallback` is the furthest step that any of the domains needed.

    Args:
        answers: one per domain, at least one, by the same model.
    """
    if len(answers) == 1:
        return answers[0]
    placed = [
        ((position + 0.5) / len(answer.items), number, item)
        for number, answer in enumerate(answers)
        for position, item in enumerate(answer.items)
    ]
    placed.sort(key=lambda entry: entry[:2])
    reasons = [answer.reason for answer in answers if answer.reason]
    fallbacks = [answer.fallback for answer in answers if answer.fallback]
    return Recommendations(
        tuple(item for _, _, item in placed),
        answers[0].model_version,
        fallback=max(fallbacks, key=FALLBACK_STEPS.index, default=None),
        reason="; ".join(reasons) or None,
    )
