"""What a report says; whatever is None or empty has not been measured.

Names of domains, users and items are the log's own: any text, shown as text and nothing else.
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
    """What the dataset holds of one domain."""

    name: str
    users: int
    items: int
    train: int
    validation: int
    test: int
    unknown_share: float
    """Share of the evaluated clicks whose item training never saw, in [0, 1]."""


@dataclass(frozen=True)
class Epoch:
    """What was measured in one pass over the training clicks."""

    number: int
    seconds: float
    losses: Mapping[str, float]
    """Term -> its mean over the steps."""
    micro: float | None
    """Validation metric over all clicks; None where the epoch was not validated."""
    macro: float | None


@dataclass(frozen=True)
class Table:
    """Figures by row and column; a cell of None is empty."""

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
    """What the domains give each other."""

    metric: str
    part: str
    matrix: Table
    """Columns: the domain that is ranked; rows: what the network was shown."""
    against_alone: tuple[Comparison, ...]


@dataclass(frozen=True)
class Click:
    """An item of a list or of a history."""

    item: str
    popular: bool = False
    """Whether it is among the most clicked of its domain, as many as the list is long."""
    was_next: bool = False
    """Whether it is what the user clicked next."""


@dataclass(frozen=True)
class Influence:
    """A user's history in one domain, and what it does to the list."""

    domain: str
    clicks: int
    newest: tuple[str, ...]
    """The newest items, newest first."""
    changed: int
    """Items of the list that another would replace without this domain's history."""


@dataclass(frozen=True)
class Example:
    """A list for one user, with the history that it was made from."""

    user: str
    domain: str
    is_new: bool
    """Whether the user has no click in the domain."""
    items: tuple[Click, ...]
    history: tuple[Influence, ...]
    """Most influential domain first."""
    next_item: str | None
    """What the user clicked next in the domain, if that is known."""
    next_rank: int | None
    """Its place among all items that were ranked, from 1; None where it could not be ranked."""


@dataclass(frozen=True)
class Missing:
    """Something that the report could show and does not."""

    what: str
    why: str
    command: str = ""
    """What makes it."""


@dataclass(frozen=True)
class Report:
    """All that the page shows."""

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
    """Domain -> why the gate holds it back; None where there is no gate."""
    health: Table | None
    """Rows: epochs; `None` where the training kept none."""
    alarms: tuple[Fact, ...]
    """Epoch -> the sign of collapse that it gave."""
    examples: tuple[Example, ...]
    missing: tuple[Missing, ...]
    commands: tuple[str, ...]
    """What to type, in order, to get the same run and this report."""
