"""Simulate a log of several domains whose truth is known.

A user has one shared taste for all domains and a smaller one for each domain. The shared taste
drifts through the year in phases. Clicks are drawn without repeats from

    p(item | user, domain, phase) = softmax over the domain's items of popularity + taste . item

Dims: U users, I items, D domains, E width of a taste.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from crossfeed.data.simulate.truth import START_SECONDS, YEAR_SECONDS, Truth
from crossfeed.errors import ConfigError
from crossfeed.files import atomic_path
from crossfeed.outputs import FileKind, require_file
from crossfeed.table_files import require_table, table_writer

__all__ = ["Simulation", "simulate"]

_WIDTH = 8
_PHASES = 4
_DRIFT = math.pi / 3
"""Angle between the shared taste of the first and of the last phase."""
_STRENGTH = 2.0
"""Standard deviation of the taste's part of a logit."""
_SHARED = 0.8
"""Share of that variance due to the shared taste."""
_POPULARITY_POWER = 0.8
_ACTIVITY_POWER = 1.6
_DENSEST_TO_SPARSEST = 30.0
_MOST_OF_DOMAIN = 0.4
"""Largest share of a domain's items that one user clicks."""
_FEWEST_ITEMS = 10
"""Of a domain."""
_CELLS = 1 << 22
"""Scores held in memory at a time."""
_NAMES = ("videos", "articles", "shopping", "music", "books", "games", "travel", "courses")


@dataclass(frozen=True)
class Simulation:
    """The written files."""

    log: Path
    truth: Path
    events: int


def simulate(
    out: Path | str,
    *,
    users: int = 4_000,
    items: int = 3_000,
    domains: int = 8,
    events: int = 200_000,
    seed: int = 0,
    overwrite: bool = False,
) -> Simulation:
    """Write a log, and its truth beside it as `NAME.truth.safetensors`.

    Args:
        out: the log: Parquet, CSV or JSONL by its suffix.
        users: number of users; the least active may have no event.
        items: number of items of all domains together.
        domains: how many domains, from dense to sparse.
        events: about how many events to draw.
        seed: the same seed and sizes give the same log.
        overwrite: whether existing files are replaced.

    Raises:
        ConfigError: the sizes do not go together, or the seed is negative.
        OutputError: the files exist or cannot be written.
    """
    out = Path(out)
    _check_sizes(users, items, domains, events, seed)
    truth_path = out.with_suffix(".truth.safetensors")
    require_table(out, _SCHEMA.names, name="log", overwrite=overwrite)
    require_file(truth_path, _TRUTH, overwrite=overwrite)
    truth_seed, activity_seed, draw_seed = np.random.SeedSequence(seed).spawn(3)
    truth = _plant(np.random.default_rng(truth_seed), users, items, domains)
    rates = _rates(np.random.default_rng(activity_seed), truth, users, events)
    written = 0
    with (
        atomic_path(truth_path) as truth_file,
        table_writer(out, _SCHEMA) as writer,
        _bar() as bar,
    ):
        truth.save(truth_file)
        chunks = _starts(truth, users)
        tables = _tables(truth, rates, chunks, draw_seed)
        for table in bar.track(tables, total=len(chunks), description="simulate"):
            writer.write_table(table)
            written += table.num_rows
    return Simulation(out, truth_path, written)


_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("domain", pa.string()),
        ("timestamp", pa.int64()),
    ]
)


_TRUTH = FileKind("truth of a simulated log", Truth.recognises)


def _check_sizes(users: int, items: int, domains: int, events: int, seed: int) -> None:
    problems = []
    if min(users, domains, events) < 1:
        problems.append("users, domains and events must be at least 1")
    elif items < _FEWEST_ITEMS * domains:
        fewest = _FEWEST_ITEMS * domains
        problems.append(f"{domains} domains need at least {fewest} items, not {items}")
    elif events > users * items * _MOST_OF_DOMAIN / 4:
        most = int(users * items * _MOST_OF_DOMAIN / 4)
        problems.append(
            f"{users} users and {items} items can give {most} events without repeats, not {events}"
        )
    if seed < 0:
        problems.append(f"seed must be at least 0, not {seed}")
    if problems:
        raise ConfigError("\n".join(problems))


def _plant(rng: np.random.Generator, users: int, items: int, domains: int) -> Truth:
    names = _NAMES[:domains] + tuple(f"domain-{n:02d}" for n in range(len(_NAMES), domains))
    sizes = _item_counts(items, domains)
    popularity = np.concatenate(
        [-_POPULARITY_POWER * np.log(rng.permutation(size) + 1.0) for size in sizes]
    )
    shared, own = _STRENGTH * math.sqrt(_SHARED), _STRENGTH * math.sqrt(1 - _SHARED)
    return Truth(
        domains=names,
        item_offsets=np.concatenate([[0], np.cumsum(sizes)]),
        popularity=popularity.astype(np.float32),
        item_vectors=rng.standard_normal((items, _WIDTH), np.float32) / math.sqrt(_WIDTH),
        shared_first=shared * rng.standard_normal((users, _WIDTH), np.float32),
        shared_last=shared * rng.standard_normal((users, _WIDTH), np.float32),
        own=own * rng.standard_normal((users, domains, _WIDTH), np.float32),
        angles=np.linspace(0, _DRIFT, _PHASES).astype(np.float32),
    )


def _item_counts(items: int, domains: int) -> NDArray[np.int64]:
    """Divide the items: the sparsest domain has a fifth of the densest's."""
    weights = np.geomspace(1, 1 / 5, domains)
    sizes = np.maximum(_FEWEST_ITEMS, np.floor(items * weights / weights.sum())).astype(np.int64)
    sizes[0] += items - sizes.sum()
    if sizes[0] < _FEWEST_ITEMS:  # it pays for the minimum of the small domains
        free = items - _FEWEST_ITEMS * domains
        sizes = _FEWEST_ITEMS + np.floor(free * weights / weights.sum()).astype(np.int64)
        sizes[0] += items - sizes.sum()
    return np.asarray(sizes)


def _rates(rng: np.random.Generator, truth: Truth, users: int, events: int) -> NDArray[np.float32]:
    """Return (U, D) expected events: power-law activity, and users missing from domains."""
    domains = len(truth.domains)
    activity = 1 + rng.pareto(_ACTIVITY_POWER, users)
    density = np.geomspace(1, 1 / _DENSEST_TO_SPARSEST, domains)
    present = rng.random((users, domains)) < np.linspace(0.9, 0.4, domains)
    present[np.arange(users), rng.integers(domains, size=users)] = True
    liking = rng.gamma(2.0, 0.5, (users, domains))
    rates = activity[:, None] * density * liking * present
    most = _MOST_OF_DOMAIN * np.diff(truth.item_offsets)
    scale = events / rates.sum()
    for _ in range(20):  # The others get the events that the cap takes away.
        scale *= events / np.minimum(rates * scale, most).sum()
    return np.asarray(np.minimum(rates * scale, most), np.float32)


def _bar() -> Progress:
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)


def _starts(truth: Truth, users: int) -> range:
    """Return the first users of the chunks that are drawn one by one."""
    return range(0, users, max(1, _CELLS // int(np.diff(truth.item_offsets).max())))


def _tables(
    truth: Truth, rates: NDArray[np.float32], starts: range, seed: np.random.SeedSequence
) -> Iterator[pa.Table]:
    """Draw the events of some users at a time; each chunk has a random stream of its own."""
    for start, child in zip(starts, seed.spawn(len(starts)), strict=True):
        rng = np.random.default_rng(child)
        users = np.arange(start, min(start + starts.step, len(rates)))
        drawn = [
            _draw_domain(rng, truth, users, domain, rates[users, domain])
            for domain in range(len(truth.domains))
        ]
        yield _table(truth, *(np.concatenate(columns) for columns in zip(*drawn, strict=True)))


def _draw_domain(
    rng: np.random.Generator,
    truth: Truth,
    users: NDArray[np.int64],
    domain: int,
    rates: NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Draw users, items and times in one domain, phase after phase, without repeats."""
    size = int(np.diff(truth.item_offsets)[domain])
    totals = np.minimum(rng.poisson(rates), int(size * _MOST_OF_DOMAIN))
    counts = rng.multinomial(totals, np.full(_PHASES, 1 / _PHASES))  # (users, phases)
    free = np.zeros((len(users), size), np.float32)  # -inf where clicked already
    columns = []
    for phase in range(_PHASES):
        rows = np.repeat(np.arange(len(users)), counts[:, phase])
        if not len(rows):
            continue
        active = np.flatnonzero(counts[:, phase])
        items = _draw_without_repeats(
            rng, truth.logits(users[active], domain, phase) + free[active], counts[active, phase]
        )
        free[rows, items] = -np.inf
        times = _ordered_times(rng, phase, rows)
        columns.append((users[rows], items + int(truth.item_offsets[domain]), times))
    if not columns:
        return (np.zeros(0, np.int64),) * 3
    users_, items_, times_ = (np.concatenate(column) for column in zip(*columns, strict=True))
    return users_, items_, times_


def _draw_without_repeats(
    rng: np.random.Generator, logits: NDArray[np.float32], counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Draw `counts` items per row, in the order of drawing (Gumbel top-k)."""
    waits = np.maximum(rng.standard_exponential(logits.shape, np.float32), 1e-30)
    keys = logits - np.log(waits)
    most = int(counts.max())
    top = np.argpartition(-keys, most - 1, axis=1)[:, :most]
    order = np.argsort(-np.take_along_axis(keys, top, axis=1), axis=1)
    ranked = np.take_along_axis(top, order, axis=1)
    return ranked[np.arange(most) < counts[:, None]]


def _ordered_times(
    rng: np.random.Generator, phase: int, rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return seconds within a phase, ascending within each row."""
    length = YEAR_SECONDS // _PHASES
    times = START_SECONDS + phase * length + rng.integers(length, size=len(rows))
    return times[np.lexsort((times, rows))]


def _table(
    truth: Truth, users: NDArray[np.int64], items: NDArray[np.int64], times: NDArray[np.int64]
) -> pa.Table:
    order = np.argsort(times, kind="stable")
    domains = truth.domain_of(items)
    return pa.table(
        [
            truth.user_ids(users[order]),
            truth.item_ids(items[order]),
            pa.array(truth.domains).take(pa.array(domains[order])),
            pa.array(times[order]),
        ],
        schema=_SCHEMA,
    )
