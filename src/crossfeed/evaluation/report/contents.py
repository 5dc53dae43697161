"""The contents of a report; None or empty means not measured.

Names of domains, users and items come from the log: any text, always shown as plain text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from crossfeed.evaluation.statistics.comparisons import Comparison, Estimate

__all__ = [
    "Click",
    "DomainFacts",
    "Epoch",
    "Example",
    "Fact",
    "Influence",
    "Missing",
    "Quality",
    "Report",
    "Setting",
    "Table",
    "TransferFacts",
]


@dataclass(frozen=True)
class Fact:
    """A name and its value, ready to be read."""

    name: str
    value: str


@dataclass(frozen=True)
class Setting:
    """A setting that differs from its default."""

    name: str
    value: str
    default: str


@dataclass(frozen=True)
class DomainFacts:
    """The dataset's counts of one domain."""

    name: str
    users: int
    items: int
    train: int
    validation: int
    test: int
    unknown_share: float
    """Share of the evaluated clicks with an unknown item, in [0, 1]."""


@dataclass(frozen=True)
class Epoch:
    """The measurements of one pass over the training clicks."""

    number: int
    seconds: float
    losses: Mapping[str, float]
    """Term -> its mean over the steps."""
    micro: float | None
    """Validation metric over all clicks; None if the epoch was not validated."""
    macro: float | None


@dataclass(frozen=True)
class Table:
    """Figures by row and column; a cell with None is empty."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]


@dataclass(frozen=True)
class Quality:
    """How well scorers rank the held-out clicks of one part."""

    part: str
    metric: str
    scorers: Mapping[str, tuple[Estimate, ...]]
    """Scorer, the judged one first -> micro, macro, then each domain."""


@dataclass(frozen=True)
class TransferFacts:
    """How much the domains gain from each other."""

    metric: str
    part: str
    matrix: Table
    """Columns: the ranked domain; rows: the histories that the network saw."""
    against_alone: tuple[Comparison, ...]


@dataclass(frozen=True)
class Click:
    """An item of a list or of a history."""

    item: str
    popular: bool = False
    """Whether it is among the k most clicked items of its domain, k being the list's length."""
    was_next: bool = False
    """Whether the user clicked it next."""


@dataclass(frozen=True)
class Influence:
    """A user's history in one domain, and its effect on the list."""

    domain: str
    clicks: int
    newest: tuple[str, ...]
    """The newest items, newest first."""
    changed: int
    """Items of the list that others would replace without this domain's history."""


@dataclass(frozen=True)
class Example:
    """A list for one user, with the history behind it."""

    user: str
    domain: str
    is_new: bool
    """Whether the user has no click in the domain."""
    items: tuple[Click, ...]
    history: tuple[Influence, ...]
    """Most influential domain first."""
    next_item: str | None
    """The user's next click in the domain, if known."""
    next_rank: int | None
    """Its rank among all ranked items, from 1; None if it could not be ranked."""


@dataclass(frozen=True)
class Missing:
    """A part that is missing from the report."""

    what: str
    why: str
    command: str = ""
    """The command that produces it."""


@dataclass(frozen=True)
class Report:
    """All contents of the page."""

    title: str
    facts: tuple[Fact, ...]
    rules: tuple[str, ...]
    domains: tuple[DomainFacts, ...]
    settings: tuple[Setting, ...]
    epochs: tuple[Epoch, ...]
    validation_metric: str
    best_epoch: int | None
    quality: Quality | None
    slices: Table | None
    worst: Table | None
    lists: Table | None
    transfer: TransferFacts | None
    held_back: Mapping[str, str] | None
    """Domain -> why the gate holds it back; None without a gate."""
    health: Table | None
    """Rows: epochs; None if the training kept none."""
    alarms: tuple[Fact, ...]
    """Epoch -> the sign of collapse that it gave."""
    examples: tuple[Example, ...]
    missing: tuple[Missing, ...]
    commands: tuple[str, ...]
    """The commands that repeat the run and this report, in order."""
