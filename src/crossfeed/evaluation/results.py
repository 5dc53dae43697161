"""The figures of an evaluation, in memory and as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

from crossfeed.evaluation.figures import Figures, WorstDomain
from crossfeed.evaluation.outcomes import Outcomes

__all__ = ["ListResults", "Results"]


@dataclass(frozen=True)
class ListResults:
    """Coverage, Gini index and novelty of the recommended lists."""

    micro: Figures = field(default_factory=dict)
    """Figure -> its value with the items of all evaluated domains as one catalogue."""
    macro: Figures = field(default_factory=dict)
    """Figure -> mean over the domains that have it."""
    domains: dict[str, Figures] = field(default_factory=dict)
    """Domain -> figure -> its value."""


@dataclass(frozen=True)
class Results:
    """One scorer's figures on one part of a dataset, with those of the baselines.

    A mean over no events is left out.
    """

    scorer: str
    part: str
    micro: Figures
    """Metric -> mean over all events."""
    macro: Figures
    """Metric -> mean over the domains that have events."""
    domains: dict[str, Figures]
    """Domain -> metric -> mean over its events; `events` is their number and `unknown_share` the
    share of events whose item did not exist yet (each a miss)."""
    outcomes: Outcomes = field(repr=False)
    """The metrics of every event, from which the means above are taken."""
    baselines: dict[str, Results] = field(default_factory=dict)
    """Name -> the baseline's own figures on the same events."""
    worst: dict[str, WorstDomain] = field(default_factory=dict)
    """Metric -> the domain with its worst value."""
    slices: dict[str, Figures] = field(default_factory=dict)
    """Slice -> metric -> mean over its events of all domains; `events` is their number. `cold` and
    `warm`: whether the user has a click in the target domain before the event; `head` and `tail`:
    whether the item is among the most clicked ones with 80% of the domain's training clicks; `new`,
    `few` and `many`: whether it has no training click, 1 to 4, or more."""
    lists: ListResults = field(default_factory=ListResults)
    """Figures over all recommended lists."""
    events: int = 0
    """Held-out clicks that were ranked."""
    unknown_share: float = 0.0
    """Share of them whose item did not exist yet."""
    protocol: str = "live"
    """The clicks a scorer may know: all that happened before (live), or those of the training part
    alone (frozen)."""
    refresh_seconds: int = 0
    """Seconds of the log's time between two refreshes of demand; 0 is exact."""
    frozen: Results | None = None
    """The scorer's figures under the frozen protocol, if they were asked for."""

    def to_json(self) -> dict[str, object]:
        """Return the figures, without the outcomes of single events, as plain JSON values.

        An infinite figure, which JSON cannot hold, is null.
        """
        return {
            "scorer": self.scorer,
            "part": self.part,
            "protocol": self.protocol,
            "refresh_seconds": self.refresh_seconds,
            "events": self.events,
            "unknown_share": self.unknown_share,
            "micro": _plain(self.micro),
            "macro": _plain(self.macro),
            "worst": {metric: _plain(asdict(one)) for metric, one in self.worst.items()},
            "domains": {name: _plain(own) for name, own in self.domains.items()},
            "slices": {name: _plain(own) for name, own in self.slices.items()},
            "lists": asdict(self.lists),
            "baselines": {name: one.to_json() for name, one in self.baselines.items()},
            "frozen": None if self.frozen is None else self.frozen.to_json(),
        }

    def all_outcomes(self) -> list[Outcomes]:
        """Return the outcomes of the scorer, then those of each baseline."""
        return [self.outcomes, *(one.outcomes for one in self.baselines.values())]


def _plain(figures: dict[str, float] | dict[str, float | str]) -> dict[str, object]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in figures.items()
    }
