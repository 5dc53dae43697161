"""Answers of the recommender."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crossfeed.serving.ids import Id

__all__ = ["FALLBACK_STEPS", "Recommendation", "Recommendations", "Step"]

Step = Literal["recent", "popular", "listed"]
"""Where items come from if nothing is known of a user: by clicks among the domain's newest tenth;
by all clicks; a list that somebody wrote."""

FALLBACK_STEPS: tuple[Step, ...] = ("recent", "popular", "listed")
"""The usual order."""


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
    """The answer to one query."""

    items: tuple[Recommendation, ...]
    """Best first."""
    model_version: str
    fallback: Step | None = None
    """If nothing usable is known of the user, the last step of the fallback that was needed; of
    several domains the furthest one."""
    reason: str | None = None
    """Why there are fewer items than asked for, else None."""
