"""Leakage audit: check that a scorer knows nothing from after the cut, or from after a click.

Every check derives its rule from the event arrays and never uses the code that it judges. The rule
states what a split's protocol allows: last-out and new-in-domain fit their filters on all events.

Dims: N events, B events of a chunk, I items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crossfeed.data.dataset import Dataset, Part
from crossfeed.evaluation.baselines import BASELINES
from crossfeed.scorer import Ints, Scorer

__all__ = ["AuditReport", "Finding", "audit", "audit_scorer"]

_CLICKS_AT_ONCE = 1_000_000
"""Clicks of histories held in memory at a time; with temporaries about 100 MB."""
_SCORED = 30
"""Training clicks whose times scorers are asked about."""
_MOMENTS = 200
"""Moments of a part that are counted again."""
_HALF_LIVES_HOURS = (1, 6, 24, 72, 168, 336, 720, 2160, 8760)
_HELD_OUT_LATER = {
    Part.TRAIN: (Part.VALIDATION, Part.TEST, Part.VALIDATION_REST, Part.TEST_REST),
    Part.VALIDATION: (Part.TEST, Part.TEST_REST),
    Part.TEST: (),
}
"""Part of an event -> the parts that its history must never hold."""


@dataclass(frozen=True)
class Finding:
    """A rule and whether it holds."""

    artefact: str
    """The artefact that could leak: split, filters, index tables, popularity, histories, ..."""
    rule: str
    passed: bool
    checked: int
    """How many events, items or rows were checked."""
    detail: str = ""
    """The first violation by its index; empty if there is none."""


@dataclass(frozen=True)
class AuditReport:
    """The findings of an audit."""

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Return whether every rule holds."""
        return all(finding.passed for finding in self.findings)

    def to_json(self) -> dict[str, object]:
        """Return the report as plain JSON values."""
        return {"passed": self.passed, "findings": [asdict(one) for one in self.findings]}


def audit(dataset: Dataset, *, baselines: Sequence[str] = ("popularity",)) -> AuditReport:
    """Check a dataset, and baselines fitted on it.

    Args:
        dataset: any prepared dataset.
        baselines: names in `BASELINES`; each is fitted twice.
    """
    findings = [
        _order(dataset),
        _SPLITS[dataset.config.split](dataset),
        _filters(dataset),
        _index_tables(dataset),
        _popularity(dataset),
        _targets(dataset),
        *(_histories(dataset, part) for part in _HELD_OUT_LATER),
        *(_moments(dataset, part) for part in _HELD_OUT_LATER),
        *(audit_scorer(BASELINES[name], dataset) for name in baselines),
    ]
    return AuditReport(tuple(findings))


def audit_scorer(fit: Callable[[Dataset], Scorer], dataset: Dataset) -> Finding:
    """Fit and ask a scorer on the dataset and with other later clicks: both must score alike.

    First other held-out clicks may not change what was fitted. Then, as of some training clicks,
    other clicks of anybody at the same time or later may not change a score.
    """
    scorer, other = fit(dataset), fit(_altered(dataset, dataset.event_part != Part.TRAIN))
    events = dataset.events(Part.TRAIN)
    events = events[:: max(1, len(events) // _SCORED)][:_SCORED]
    differing = []
    for event in events.tolist():
        time, domain = int(dataset.event_time[event]), int(dataset.event_domain[event])
        later = _altered(dataset, dataset.event_time >= time)
        asked = [
            one.score(
                data.histories(np.array([event]), Part.TRAIN), domain, data.moment(time, Part.TRAIN)
            )
            for one, data in ((scorer, dataset), (other, dataset), (scorer, later))
        ]
        if not all(np.allclose(asked[0], one) for one in asked[1:]):
            differing.append(event)
    return _finding(
        f"scorer {scorer.name}",
        "other held-out clicks, and other clicks at the time of a click or later, change no score",
        np.array(differing, np.int64),
        len(events),
    )


def _order(dataset: Dataset) -> Finding:
    """A user's events are in time order, so that "before" means earlier."""
    falls = np.flatnonzero(np.diff(dataset.event_time) < 0)
    inside = falls[dataset.users_of(falls) == dataset.users_of(falls + 1)]
    return _finding(
        "order", "a user's events are in time order", inside + 1, len(dataset.event_time)
    )


def _temporal(dataset: Dataset) -> Finding:
    """All domains and users share the cuts, and each part begins after the one before."""
    times, parts = dataset.event_time, dataset.event_part
    ends = [times[parts == part].max(initial=np.iinfo(np.int64).min) for part in (0, 1)]
    late = ((parts == Part.VALIDATION) & (times <= ends[0])) | (
        (parts == Part.TEST) & (times <= ends[1])
    )
    return _finding(
        "split",
        "every validation click is later than all training, every test click than all validation",
        np.flatnonzero(late),
        len(times),
    )


def _last_out(dataset: Dataset) -> Finding:
    """In a (user, domain) the test click comes last, and validation right before it."""
    parts, pairs = dataset.event_part, _pairs(dataset)
    order = np.lexsort((np.arange(len(pairs)), pairs))
    rises = parts[order][1:].astype(int) - parts[order][:-1]
    same = pairs[order][1:] == pairs[order][:-1]
    after_held_out = same & ((rises < 0) | ((rises == 0) & (parts[order][1:] != Part.TRAIN)))
    return _finding(
        "split",
        "in a (user, domain) the held-out clicks are its last (this split lets other users' "
        "training be later than a test click)",
        order[1:][after_held_out],
        len(parts),
    )


def _new_in_domain(dataset: Dataset) -> Finding:
    """A held-out (user, domain) has no training click."""
    pairs, parts = _pairs(dataset), dataset.event_part
    held_out = np.unique(pairs[parts != Part.TRAIN])
    leaked = (parts == Part.TRAIN) & np.isin(pairs, held_out)
    return _finding(
        "split",
        "a held-out (user, domain) has no training click",
        np.flatnonzero(leaked),
        len(parts),
    )


_SPLITS: dict[str, Callable[[Dataset], Finding]] = {
    "temporal": _temporal,
    "last-out": _last_out,
    "new-in-domain": _new_in_domain,
}


def _filters(dataset: Dataset) -> Finding:
    """The trained items are those of a k-core of exactly the events that may fit it."""
    temporal = dataset.config.split == "temporal"
    chosen = np.ones(len(dataset.event_item), np.bool_)
    if temporal:
        chosen = dataset.event_part == Part.TRAIN
    kept = _core(dataset, np.flatnonzero(chosen))
    expected = np.zeros(dataset.catalogue.items, np.bool_)
    expected[dataset.event_item[kept[dataset.event_part[kept] == Part.TRAIN]]] = True
    rule = "the trained items are those that k-core and smallest domain keep in training alone"
    if not temporal:
        rule = "the trained items are those of training (this split fits its filters on all events)"
    return _finding(
        "filters",
        rule,
        np.flatnonzero(_is_trained(dataset) != expected),
        len(expected),
        noun="item",
    )


def _core(dataset: Dataset, events: Ints) -> Ints:
    """Return the events that are left when rare users, items and domains are dropped in turn."""
    config = dataset.config
    while True:
        before = len(events)
        for least, keys in (
            (config.min_user_events, dataset.users_of),
            (config.min_item_events, lambda events: dataset.event_item[events]),
        ):
            key = keys(events)
            events = events[np.bincount(key, minlength=1)[key] >= least]
        if len(events) < before:
            continue
        domains = dataset.event_domain[events]
        events = events[np.bincount(domains, minlength=1)[domains] >= config.min_domain_events]
        if len(events) == before:
            return events


def _is_trained(dataset: Dataset) -> NDArray[np.bool_]:
    trained = np.zeros(dataset.catalogue.items, np.bool_)
    for first, count in zip(dataset.catalogue.offsets[:-1], dataset.catalogue.trained, strict=True):
        trained[first : first + count] = True
    return trained


def _index_tables(dataset: Dataset) -> Finding:
    """Every item was clicked by somebody."""
    clicks = np.bincount(dataset.event_item, minlength=dataset.catalogue.items)
    return _finding(
        "index tables",
        "the pools hold exactly the items that anybody clicked",
        np.flatnonzero(clicks == 0),
        dataset.catalogue.items,
        noun="item",
    )


def _popularity(dataset: Dataset) -> Finding:
    """The item counts behind popularity and static proposals count only training clicks."""
    return _finding(
        "popularity",
        "the clicks per item, which proposals and baselines use, are training clicks",
        np.flatnonzero(dataset.item_clicks != _training_clicks(dataset)),
        dataset.catalogue.items,
        noun="item",
    )


def _targets(dataset: Dataset) -> Finding:
    """Every target of training is marked as training."""
    events = dataset.learned_events
    return _finding(
        "targets",
        "no held-out click is a target of training",
        events[dataset.event_part[events] != Part.TRAIN],
        len(events),
    )


def _histories(dataset: Dataset, part: Part) -> Finding:
    """A history holds items of the user's strictly earlier, visible events and nothing else."""
    events, leaking = dataset.events(part), []
    for first, last in dataset.chunks(events, at_once=_CLICKS_AT_ONCE, of_event=1):
        chunk = events[first:last]
        histories = dataset.histories(chunk, part)
        allowed = _allowed_keys(dataset, chunk, part)
        keys = histories.rows() * dataset.catalogue.items + histories.items
        if not np.array_equal(keys, allowed):  # no need to sort them
            leaking.append(chunk[np.unique(histories.rows()[~np.isin(keys, allowed)])])
    return _finding(
        f"histories of {part.name.lower()}",
        "a history holds only the user's clicks at earlier times, and none held out for later",
        np.concatenate([*leaking, np.zeros(0, np.int64)]),
        len(events),
    )


def _allowed_keys(dataset: Dataset, events: Ints, part: Part) -> Ints:
    """Return row * I + item of each click that the rows' histories may hold, in time order."""
    starts = dataset.user_offsets[dataset.users_of(events)]
    rows = np.repeat(np.arange(len(events)), events - starts)
    before = np.arange(len(rows)) - np.repeat(np.cumsum(events - starts) - events, events - starts)
    visible = ~np.isin(dataset.event_part[before], _HELD_OUT_LATER[part])
    visible &= dataset.event_time[before] < dataset.event_time[events][rows]
    items = dataset.event_item[before].astype(np.int64)
    return np.asarray((rows * dataset.catalogue.items + items)[visible])


def _moments(dataset: Dataset, part: Part) -> Finding:
    """Demand and existence as of a click count the visible clicks at earlier times alone."""
    events = dataset.events(part)
    events = events[:: max(1, len(events) // _MOMENTS)][:_MOMENTS]
    visible = ~np.isin(dataset.event_part, _HELD_OUT_LATER[part])
    leaking = []
    for event in events.tolist():
        domain, time = int(dataset.event_domain[event]), int(dataset.event_time[event])
        own = visible & (dataset.event_domain == domain) & (dataset.event_time < time)
        moment = dataset.moment(time, part)
        expected = _counted(dataset, np.flatnonzero(own), domain)
        exists = expected[:, -1] > 0
        demand = moment.demand(domain)[:, : len(_HALF_LIVES_HOURS)]
        counts = np.exp(demand) * expected[:, :-1].sum(axis=0)
        same = np.isclose(counts, expected[:, :-1], rtol=1e-6, atol=1e-6 * max(1, own.sum()))
        if not np.array_equal(moment.exists(domain), exists) or not same[exists].all():
            leaking.append(event)
    return _finding(
        f"demand of {part.name.lower()}",
        "an item's demand, and whether it exists, come from clicks at earlier times alone",
        np.array(leaking, np.int64),
        len(events),
    )


def _counted(dataset: Dataset, events: Ints, domain: int) -> NDArray[np.float64]:
    """Return (N, H + 1) the decayed counts of a domain's items, and their clicks."""
    first, last = dataset.catalogue.offsets[domain : domain + 2]
    counts = np.zeros((last - first, len(_HALF_LIVES_HOURS) + 1))
    if len(events):
        ages = dataset.event_time[events].max() - dataset.event_time[events]
        weights = 0.5 ** (ages[:, None] / (3_600_000 * np.array(_HALF_LIVES_HOURS)))
        np.add.at(counts[:, :-1], dataset.event_item[events] - first, weights)
        np.add.at(counts[:, -1], dataset.event_item[events] - first, 1)
    return counts


def _altered(dataset: Dataset, chosen: NDArray[np.bool_]) -> Dataset:
    """Return the dataset with other items and later times in the chosen events."""
    firsts = dataset.catalogue.offsets[dataset.event_domain]
    items = np.where(chosen, firsts, dataset.event_item).astype(np.int32)
    return replace(dataset, event_item=items, event_time=dataset.event_time + chosen * 86_400_000)


def _training_clicks(dataset: Dataset) -> Ints:
    chosen = dataset.event_part == Part.TRAIN
    return np.bincount(dataset.event_item[chosen], minlength=dataset.catalogue.items)


def _pairs(dataset: Dataset) -> Ints:
    """Return (N,) a number for each event's (user, domain)."""
    users = dataset.users_of(np.arange(len(dataset.event_item)))
    return users * len(dataset.catalogue.domains) + dataset.event_domain


def _finding(
    artefact: str, rule: str, violations: NDArray[np.intp], checked: int, *, noun: str = "event"
) -> Finding:
    count = len(violations)
    detail = f"{count:,} violations, the first is {noun} {violations[0]}" if count else ""
    return Finding(artefact, rule, not count, checked, detail)
