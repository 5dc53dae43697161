"""What is answered: recommended items, where each comes from, and why there are not more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from crossfeed.bundle import Bundle
from crossfeed.serving.ids import Id

__all__ = ["Recommendation", "Recommendations", "answers_schema", "answers_table"]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One recommended item."""

    item_id: Id
    domain: str
    score: float
    """Higher is better; comparable within one domain and one kind of source alone."""
    source: str
    """Where it comes from: `pool` (the domain's items), `candidates` (the request's list), or a
    step of the fallback (`recent`, `popular`, `listed`)."""


@dataclass(frozen=True, slots=True)
class Recommendations:
    """The answer to one request."""

    items: tuple[Recommendation, ...]
    """Best first."""
    model_version: str
    fallback: str | None = None
    """Where nothing usable is known of the user, the last step of the fallback that was needed:
    `recent`, `popular` or `listed`; else None."""
    reason: str | None = None
    """Why there are fewer items than asked for, else None."""


def answers_schema(bundle: Bundle) -> pa.Schema:
    """Return the columns of a table of answers."""
    return pa.schema(
        {
            "user_id": bundle.user_id_type,
            "domain": pa.string(),
            "rank": pa.int32(),
            "item_id": bundle.item_id_type,
            "score": pa.float32(),
            "source": pa.string(),
        }
    )


def answers_table(
    bundle: Bundle, user_ids: Sequence[object], answers: Iterable[Recommendations]
) -> pa.Table:
    """Return one row per recommended item; `rank` counts from 1.

    Args:
        bundle: tells the types of the ids.
        user_ids: (B,) whom each answer is for.
        answers: (B,) their answers.
    """
    rows = [
        (user_id, item.domain, rank, item.item_id, item.score, item.source)
        for user_id, answer in zip(user_ids, answers, strict=True)
        for rank, item in enumerate(answer.items, start=1)
    ]
    schema = answers_schema(bundle)
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    return pa.table(
        [pa.array(column, type_) for column, type_ in zip(columns, schema.types, strict=True)],
        schema=schema,
    )
