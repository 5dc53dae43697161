"""The metrics of every evaluated event, the source of means, intervals and tests.

Dims: B evaluated events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crossfeed.errors import RunError
from crossfeed.files import atomic_path
from crossfeed.scorer import Ints

__all__ = ["Outcomes", "read_outcomes", "write_outcomes"]

_FORMAT = b"crossfeed.outcomes"
_VERSION = b"1"
_KEYS = ("scorer", "event", "user", "domain")


@dataclass(frozen=True)
class Outcomes:
    """The metrics of one scorer on each event of a part, ordered by event."""

    scorer: str
    events: Ints
    """(B,) index of the event in its dataset; it pairs two scorers' outcomes."""
    users: Ints
    """(B,) index of the event's user."""
    domains: NDArray[np.object_]
    """(B,) name of the target domain."""
    values: Mapping[str, NDArray[np.float64]]
    """Metric -> (B,) its value; NaN if the event has none."""


def write_outcomes(path: Path, outcomes: Sequence[Outcomes]) -> None:
    """Write the outcomes of several scorers, with the same metrics, as one Parquet file."""
    tables = [
        pa.table(
            {
                "scorer": pa.repeat(pa.scalar(one.scorer), len(one.events)),
                "event": one.events,
                "user": one.users,
                "domain": pa.array(one.domains, pa.string()),
                **one.values,
            }
        )
        for one in outcomes
    ]
    table = pa.concat_tables(tables).replace_schema_metadata({_FORMAT: _VERSION})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_outcomes(path: Path) -> list[Outcomes]:
    """Read the outcomes that `write_outcomes` wrote, in its order.

    Raises:
        RunError: the file is missing, of another kind, or of another format version.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid):
        raise RunError(
            f"'{path}' cannot be read", hint="make it with: crossfeed evaluate RUN"
        ) from None
    version = (table.schema.metadata or {}).get(_FORMAT)
    if version != _VERSION:
        found = "no such file" if version is None else f"of format version {version.decode()}"
        raise RunError(
            f"'{path}' holds no outcomes of an evaluation that can be read: it is {found}",
            hint="make it again with: crossfeed evaluate RUN",
        )
    metrics = [name for name in table.column_names if name not in _KEYS]
    return [
        _of(name.as_py(), table.filter(pc.equal(table["scorer"], name)), metrics)
        for name in table["scorer"].unique()
    ]


def _of(scorer: str, table: pa.Table, metrics: Sequence[str]) -> Outcomes:
    return Outcomes(
        scorer=scorer,
        events=table["event"].to_numpy(),
        users=table["user"].to_numpy(),
        domains=table["domain"].to_numpy(),
        values={name: table[name].to_numpy() for name in metrics},
    )
