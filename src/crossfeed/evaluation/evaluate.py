"""Full ranking of held-out clicks, per domain, micro and macro.

Every scorer is judged the same way: the target domain's pool minus what the user had in it before
the event, ranked whole (no sampled negatives), the history being all clicks before the event.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import ConfigError, DatasetError
from crossfeed.evaluation.baselines import BASELINES
from crossfeed.evaluation.metrics import METRICS, Ranks, ranks
from crossfeed.evaluation.outcomes import Outcomes
from crossfeed.scorer import Histories, Ints, Scorer

__all__ = ["Results", "evaluate"]

_CELLS_AT_ONCE = 4_000_000
"""Scores held in memory at a time; with temporaries about 50 MB."""


@dataclass(frozen=True)
class Results:
    """One scorer's figures on one part of a dataset, with those of the baselines."""

    scorer: str
    part: str
    micro: dict[str, float]
    """Metric -> mean over all events."""
    macro: dict[str, float]
    """Metric -> mean over the domains that have events."""
    domains: dict[str, dict[str, float]]
    """Domain -> metric -> mean over its events; `events` is their number and `unknown_share` the
    share of events whose item training never saw (each a miss)."""
    outcomes: Outcomes = field(repr=False)
    """The metrics of every event, which the means above are taken of."""
    baselines: dict[str, Results] = field(default_factory=dict)
    """Name -> the baseline's own figures on the same events."""

    def to_json(self) -> dict[str, object]:
        """Return the figures, without the outcomes of single events, as plain JSON values."""
        return {
            "scorer": self.scorer,
            "part": self.part,
            "micro": self.micro,
            "macro": self.macro,
            "domains": self.domains,
            "baselines": {name: one.to_json() for name, one in self.baselines.items()},
        }

    def all_outcomes(self) -> list[Outcomes]:
        """Return the outcomes of the scorer, then those of each baseline."""
        return [self.outcomes, *(one.outcomes for one in self.baselines.values())]


class _Trained(Protocol):
    def scorer(self) -> Scorer: ...


def evaluate(
    scorer: Scorer | _Trained,
    dataset: Dataset,
    *,
    part: Part = Part.TEST,
    baselines: Sequence[str] = (),
) -> Results:
    """Rank every held-out click of a part.

    Args:
        scorer: what is judged, or a run whose best scorer is; it sees histories, never the
            held-out click.
        dataset: prepared data; its `part` decides what a history may hold (`Dataset.histories`).
        part: `Part.VALIDATION` for any kind of selection, `Part.TEST` once, for what is reported.
        baselines: names in `BASELINES`, fitted on the dataset's training part.

    Raises:
        ConfigError: a baseline is unknown.
        DatasetError: the part has no event.
    """
    unknown = [name for name in baselines if name not in BASELINES]
    if unknown:
        raise ConfigError(
            f"baseline '{unknown[0]}' is unknown; it is one of: {', '.join(BASELINES)}"
        )
    events = dataset.events(part)
    if not len(events):
        raise DatasetError(f"the {part.name.lower()} part of '{dataset.path}' has no event")
    judged = scorer if isinstance(scorer, Scorer) else scorer.scorer()
    return replace(
        _judge(judged, dataset, events, part),
        baselines={
            name: _judge(BASELINES[name](dataset), dataset, events, part) for name in baselines
        },
    )


def _judge(scorer: Scorer, dataset: Dataset, events: Ints, part: Part) -> Results:
    outcomes, unknown = _outcomes(scorer, dataset, events, part)
    domains = {}
    for domain in dataset.catalogue.domains:
        own = outcomes.domains == domain
        if own.any():
            means = {name: float(values[own].mean()) for name, values in outcomes.values.items()}
            domains[domain] = {
                "events": int(own.sum()),
                "unknown_share": float(unknown[own].mean()),
                **means,
            }
    return Results(
        scorer=scorer.name,
        part=part.name.lower(),
        micro={name: float(values.mean()) for name, values in outcomes.values.items()},
        macro={
            name: float(np.mean([figures[name] for figures in domains.values()]))
            for name in METRICS
        },
        domains=domains,
        outcomes=outcomes,
    )


def _outcomes(
    scorer: Scorer, dataset: Dataset, events: Ints, part: Part
) -> tuple[Outcomes, NDArray[np.bool_]]:
    """Return the metrics of each event, and (B,) whether training never saw its item."""
    domain_of = dataset.event_domain[events]
    values = {name: np.empty(len(events)) for name in METRICS}
    unknown = np.empty(len(events), dtype=np.bool_)
    for domain in range(len(dataset.catalogue.domains)):
        own = domain_of == domain
        if own.any():
            found, unknown[own] = _rank_domain(scorer, dataset, events[own], domain, part)
            for name, (metric, k) in METRICS.items():
                values[name][own] = metric(found, k)
    names = np.array(dataset.catalogue.domains, dtype=object)
    users = dataset.users_of(events)
    return Outcomes(scorer.name, events, users, names[domain_of], values), unknown


def _rank_domain(
    scorer: Scorer, dataset: Dataset, events: Ints, domain: int, part: Part
) -> tuple[Ranks, NDArray[np.bool_]]:
    """Return the ranks of one domain's events, and which of them have an unknown item."""
    pool = dataset.catalogue.pool(domain)
    size = pool.stop - pool.start
    found: list[Ranks] = []
    unknown: list[NDArray[np.bool_]] = []
    for chunk in _chunks(events, max(1, _CELLS_AT_ONCE // max(size, 1))):
        histories = dataset.histories(chunk, part)
        positions = dataset.event_item[chunk].astype(np.int64) - pool.start
        targets = np.where((positions >= 0) & (positions < size), positions, -1)
        unknown.append(targets < 0)
        scores = scorer.score(histories, domain)
        found.append(ranks(scores, targets, _seen(histories, pool)))
    return Ranks.joined(found), np.concatenate(unknown)


def _seen(histories: Histories, pool: slice) -> NDArray[np.bool_]:
    """Return (B, N) true where the pool's item is in the row's history."""
    seen = np.zeros((len(histories), pool.stop - pool.start), dtype=np.bool_)
    inside = (histories.items >= pool.start) & (histories.items < pool.stop)
    seen[histories.rows()[inside], histories.items[inside] - pool.start] = True
    return seen


def _chunks(events: Ints, size: int) -> Iterator[Ints]:
    for first in range(0, len(events), size):
        yield events[first : first + size]
