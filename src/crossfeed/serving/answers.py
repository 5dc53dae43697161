"""What is asked of the recommender and what it answers; several answers blended into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from crossfeed.serving.history import Event, Id
from crossfeed.serving.rules import Rules

__all__ = ["MAX_K", "Recommendation", "Recommendations", "Request", "blend"]

MAX_K = 1000


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One recommended item."""

    item_id: Id
    domain: str
    score: float
    source: str
    """Where it comes from: `pool` (the domain's items), `candidates` (the request's list) or
    `popular` (the fallback)."""


@dataclass(frozen=True, slots=True)
class Recommendations:
    """The answer to one request."""

    items: tuple[Recommendation, ...]
    """Best first."""
    model_version: str
    fallback: str | None = None
    """`popular` where nothing usable is known of the user, else None."""
    reason: str | None = None
    """Why there are fewer items than asked for, else None."""


@dataclass(frozen=True)
class Request:
    """Who wants what: exactly one of `user_id` and `history`, a target domain, and rules."""

    domain: str
    user_id: Id | None = None
    history: Sequence[Event | Mapping[str, object]] | None = None
    """Events in any order; mappings have item_id, domain and, if order matters, timestamp."""
    k: int = 10
    rules: Rules = field(default_factory=Rules)


def blend(answers: Sequence[Recommendations]) -> Recommendations:
    """Return one feed of several domains' answers, each domain spread evenly over it.

    Scores of different domains cannot be compared: each is known up to a constant for the user
    and the domain. So the j-th of a domain's n items (from 0) takes the place (j + 1/2) / n; at
    equal places the domain that was named first comes first, and every domain keeps its order.

    Args:
        answers: one per domain, at least one, by the same model.
    """
    placed = [
        ((position + 0.5) / len(answer.items), number, item)
        for number, answer in enumerate(answers)
        for position, item in enumerate(answer.items)
    ]
    placed.sort(key=lambda entry: entry[:2])
    reasons = [answer.reason for answer in answers if answer.reason]
    fallbacks = {answer.fallback for answer in answers}
    return Recommendations(
        tuple(item for _, _, item in placed),
        answers[0].model_version,
        fallback=fallbacks.pop() if len(fallbacks) == 1 else None,
        reason="; ".join(reasons) or None,
    )
