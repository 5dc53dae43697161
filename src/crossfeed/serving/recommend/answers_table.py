"""Answers as a table, for files of recommendations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from crossfeed.bundle import Bundle
from crossfeed.serving.recommend.answers import Recommendations

__all__ = ["answers_schema", "answers_table"]


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
