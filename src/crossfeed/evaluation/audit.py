"""Leakage audit: check that a scorer learned nothing from after the cut.

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
_OF_TRAINING = slice(0, 5_000, 100)
"""The training clicks that scorers score."""
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
        _known_clicks(dataset),
        *(_histories(dataset, part) for part in _HELD_OUT_LATER),
        *(audit_scorer(BASELINES[name], dataset) for name in baselines),
    ]
    return AuditReport(tuple(findings))


def audit_scorer(fit: Callable[[Dataset], Scorer], dataset: Dataset) -> Finding:
    """Fit a scorer on the dataset and with other held-out clicks: both must score alike."""
    scorer, other = fit(dataset), fit(_altered(dataset))
    events = dataset.events(Part.TRAIN)[_OF_TRAINING]
    histories = dataset.histories(events, Part.TRAIN)
    differing = [
        name
        for domain, name in enumerate(dataset.catalogue.domains)
        if not np.allclose(scorer.score(histories, domain), other.score(histories, domain))
    ]
    return Finding(
        artefact=f"scorer {scorer.name}",
        rule="other held-out clicks do not change its scores",
        passed=not differing,
        checked=len(events) * len(dataset.catalogue.domains),
        detail=f"the scores of domain '{differing[0]}' changed" if differing else "",
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
    """The k-core and the smallest domain hold on exactly the events that may fit them."""
    config, temporal = dataset.config, dataset.config.split == "temporal"
    chosen = dataset.event_item >= 0
    if temporal:
        chosen &= dataset.event_part == Part.TRAIN
    events = np.flatnonzero(chosen)
    problems = []
    for name, keys, least in (
        ("user", dataset.users_of(events), config.min_user_events),
        ("item", dataset.event_item[events], config.min_item_events),
        ("domain", dataset.event_domain[events], config.min_domain_events),
    ):
        values, counts = np.unique(keys, return_counts=True)
        if (counts < least).any():
            first = int(np.flatnonzero(counts < least)[0])
            problems.append(f"{name} {values[first]} has {counts[first]} of {least} events")
    rule = "k-core and smallest domain hold on the training part alone"
    if not temporal:
        rule = "k-core and smallest domain hold (this split fits them on all events)"
    return Finding("filters", rule, not problems, len(events), "; ".join(problems))


def _index_tables(dataset: Dataset) -> Finding:
    """Pools hold exactly the items that training clicked."""
    clicks, known = _training_clicks(dataset), np.zeros(dataset.catalogue.items, np.bool_)
    for domain in range(len(dataset.catalogue.domains)):
        known[dataset.catalogue.pool(domain)] = True
    return _finding(
        "index tables",
        "the pools, from which candidates are drawn, hold exactly the items of training clicks",
        np.flatnonzero(known != (clicks > 0)),
        len(known),
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


def _known_clicks(dataset: Dataset) -> Finding:
    """Every target of training is marked as training."""
    events = dataset.events(Part.TRAIN)
    return _finding(
        "known clicks",
        "no held-out click is a target of training",
        events[dataset.event_part[events] != Part.TRAIN],
        len(events),
    )


def _histories(dataset: Dataset, part: Part) -> Finding:
    """A history holds items of the user's earlier, visible events and nothing else."""
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
        "a history holds only the user's earlier clicks, and none that is held out for later",
        np.concatenate([*leaking, np.zeros(0, np.int64)]),
        len(events),
    )


def _allowed_keys(dataset: Dataset, events: Ints, part: Part) -> Ints:
    """Return row * I + item of each click that the rows' histories may hold, in time order."""
    starts = dataset.user_offsets[dataset.users_of(events)]
    rows = np.repeat(np.arange(len(events)), events - starts)
    before = np.arange(len(rows)) - np.repeat(np.cumsum(events - starts) - events, events - starts)
    visible = ~np.isin(dataset.event_part[before], _HELD_OUT_LATER[part])
    items = dataset.event_item[before].astype(np.int64)
    return np.asarray((rows * dataset.catalogue.items + items)[visible & (items >= 0)])


def _altered(dataset: Dataset) -> Dataset:
    """Return the dataset with other items and later times in all held-out events."""
    held_out = dataset.event_part != Part.TRAIN
    firsts = dataset.catalogue.offsets[dataset.event_domain]
    items = np.where(held_out, firsts, dataset.event_item).astype(np.int32)
    return replace(dataset, event_item=items, event_time=dataset.event_time + held_out * 86_400_000)


def _training_clicks(dataset: Dataset) -> Ints:
    chosen = (dataset.event_part == Part.TRAIN) & (dataset.event_item >= 0)
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
