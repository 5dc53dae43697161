"""Full ranking of held-out clicks: per domain, micro, macro, worst domain and slices.

Every scorer is judged the same way. It ranks the target domain's whole pool, as of the event,
without the user's earlier clicks in it; there are no sampled negatives. The history is all clicks
before the event, and everybody's earlier clicks are known (`crossfeed.evaluation.clock`).

Dims: B evaluated events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

import numpy as np

from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import ConfigError, DatasetError, require_type
from crossfeed.evaluation.baselines import BASELINES, require_baselines
from crossfeed.evaluation.clock import REFRESH_SECONDS, Clock
from crossfeed.evaluation.figures import Figures, macro_figures, mean_figures, worst_domains
from crossfeed.evaluation.judgement import Judgement, judge_domain
from crossfeed.evaluation.lists import list_figures
from crossfeed.evaluation.metrics import DEFAULT_K
from crossfeed.evaluation.outcomes import Outcomes
from crossfeed.evaluation.results import ListResults, Results
from crossfeed.evaluation.slices import slices
from crossfeed.scorer import Ints, Scorer

__all__ = ["Results", "evaluate"]


T = TypeVar("T")


class _Trained(Protocol):
    def scorer(self) -> Scorer: ...


class _Workers(Protocol):
    """Processes that share the work; each has a rank below their count."""

    @property
    def rank(self) -> int: ...
    @property
    def count(self) -> int: ...
    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank."""


class _Alone:
    rank, count = 0, 1

    def gather(self, value: T) -> list[T]:
        return [value]


_ALONE = _Alone()


def evaluate(
    scorer: Scorer | _Trained,
    dataset: Dataset,
    *,
    part: Part = Part.TEST,
    baselines: Sequence[str] = (),
    k: int = DEFAULT_K,
    refresh_seconds: int = REFRESH_SECONDS,
    frozen: bool = False,
    workers: _Workers = _ALONE,
) -> Results:
    """Rank every held-out click of a part.

    Args:
        scorer: the scorer, or a run whose best scorer is judged; it sees histories, never the
            held-out click.
        dataset: prepared data; its `part` decides what a history may hold (`Dataset.histories`).
        part: `Part.VALIDATION` for any kind of selection; `Part.TEST` once, for the report.
        baselines: names in `BASELINES`, fitted on the dataset's training part.
        k: length of the judged lists, at least 1; `metrics_at` lists the metrics.
        refresh_seconds: seconds of the log's time between two refreshes of demand; 0 is exact.
        frozen: whether to judge the scorer under the frozen protocol as well; baselines are live.
        workers: processes that make this call together. Each ranks its share of the clicks, and all
            outcomes are gathered before any figure is computed. All return the same results as one
            process would.

    Raises:
        ConfigError: a baseline is unknown or the items are too many for it, `k` is below 1,
            `refresh_seconds` is below 0, or an argument is of another type.
        DatasetError: the part has no event.
        MissingExtraError: a baseline needs a package that is not installed.
    """
    require_type(dataset, Dataset, "dataset", hint="Dataset.load(path)")
    require_type(part, Part, "part", hint="Part.TEST or Part.VALIDATION")
    if not hasattr(scorer, "scorer"):
        require_type(scorer, Scorer, "scorer", hint="Run.open(path), or a scorer")
    require_baselines(baselines, dataset)
    if k < 1:
        raise ConfigError(f"k = {k}, but a list has at least 1 item")
    if refresh_seconds < 0:
        raise ConfigError(f"refresh_seconds = {refresh_seconds}; it is 0 (exact) or more")
    events = dataset.events(part)
    if not len(events):
        raise DatasetError(f"the {part.name.lower()} part of '{dataset.path}' has no event")
    judged = scorer if isinstance(scorer, Scorer) else scorer.scorer()
    live = Clock(dataset, part, refresh_seconds)
    judge = partial(_judge, dataset=dataset, events=events, k=k, workers=workers)
    return replace(
        judge(judged, clock=live),
        baselines={name: judge(BASELINES[name](dataset), clock=live) for name in baselines},
        frozen=judge(judged, clock=replace(live, frozen=True)) if frozen else None,
    )


def _judge(
    scorer: Scorer, *, dataset: Dataset, events: Ints, clock: Clock, k: int, workers: _Workers
) -> Results:
    names = dataset.catalogue.domains
    domain_of, users = dataset.event_domain[events], dataset.users_of(events)
    order = np.lexsort((dataset.event_time[events], domain_of))  # by domain, then in time order
    present, firsts = np.unique(domain_of[order], return_index=True)
    shares = {
        domain: np.array_split(events[own], workers.count)[workers.rank]
        for domain, own in zip(present.tolist(), np.split(order, firsts[1:]), strict=True)
    }
    own_share = {
        names[domain]: judge_domain(scorer, dataset, share, domain, clock=clock, k=k)
        for domain, share in shares.items()
        if len(share)
    }
    gathered = workers.gather(own_share)
    judged = {
        name: Judgement.of_domain([one[name] for one in gathered if name in one])
        for name in (names[domain] for domain in shares)
    }
    whole = Judgement.joined(list(judged.values())).reordered(np.argsort(order))
    pairs = users * len(names) + domain_of
    figures = {name: mean_figures(one.values, one.users) for name, one in judged.items()}
    return Results(
        scorer=scorer.name,
        part=clock.part.name.lower(),
        protocol="frozen" if clock.frozen else "live",
        refresh_seconds=clock.refresh_seconds,
        micro=mean_figures(whole.values, pairs),
        macro=macro_figures(figures),
        domains={name: _counts(one) | figures[name] for name, one in judged.items()},
        outcomes=Outcomes(
            scorer.name, events, users, np.array(names, dtype=object)[domain_of], whole.values
        ),
        worst=worst_domains(figures),
        slices=_slice_figures(whole, pairs),
        lists=_list_results(judged, whole, k),
        events=len(events),
        unknown_share=float(whole.unknown.mean()),
    )


def _counts(judgement: Judgement) -> Figures:
    return {
        "events": len(judgement.unknown),
        "unknown_share": float(judgement.unknown.mean()),
    }


def _slice_figures(judgement: Judgement, pairs: Ints) -> dict[str, Figures]:
    return {
        name: {
            "events": int(chosen.sum()),
            **mean_figures(
                {metric: each[chosen] for metric, each in judgement.values.items()}, pairs[chosen]
            ),
        }
        for name, chosen in slices(
            warm=judgement.warm, head=judgement.head, clicks=judgement.item_clicks
        ).items()
    }


def _list_results(judged: Mapping[str, Judgement], whole: Judgement, k: int) -> ListResults:
    domains = {name: list_figures(one.lists, one.bits, k) for name, one in judged.items()}
    return ListResults(
        micro=list_figures(whole.lists, whole.bits, k),
        macro=macro_figures(domains),
        domains=domains,
    )
