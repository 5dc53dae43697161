"""Means of outcomes: over events, over domains, and the worst domain.

A metric without a value for any event is left out, so every figure is a number.

Dims: B evaluated events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossfeed.evaluation.metrics import LOWER_IS_BETTER, gauc
from crossfeed.scorer import Ints

__all__ = ["Figures", "WorstDomain", "macro_figures", "mean_figures", "worst_domains"]

Figures = dict[str, float]
"""Metric -> figure."""


@dataclass(frozen=True)
class WorstDomain:
    """The domain with a metric's worst value; the first one of a tie."""

    domain: str
    value: float


def mean_figures(values: Mapping[str, NDArray[np.float64]], pairs: Ints) -> Figures:
    """Return metric -> mean over the events that have it, and gauc.

    Args:
        values: metric -> (B,) its value; NaN if the event has none.
        pairs: (B,) a number for the event's pair of user and domain.
    """
    said = {name: each[~np.isnan(each)] for name, each in values.items()}
    figures = {name: float(each.mean()) for name, each in said.items() if len(each)}
    if "auc" in figures:
        figures["gauc"] = gauc(values["auc"], pairs)
    return figures


def macro_figures(domains: Mapping[str, Figures]) -> Figures:
    """Return metric -> mean over the domains that have it, with equal weight."""
    return {
        name: float(np.mean([figures[name] for figures in domains.values() if name in figures]))
        for name in _metrics(domains)
    }


def worst_domains(domains: Mapping[str, Figures]) -> dict[str, WorstDomain]:
    """Return metric -> the domain with its worst value."""
    worst = {}
    for name in _metrics(domains):
        having = {domain: own[name] for domain, own in domains.items() if name in own}
        choose = max if name in LOWER_IS_BETTER else min
        domain = choose(having, key=having.__getitem__)
        worst[name] = WorstDomain(domain, having[domain])
    return worst


def _metrics(domains: Mapping[str, Figures]) -> list[str]:
    """Return the metrics that any domain has, in their order."""
    return list(dict.fromkeys(name for figures in domains.values() for name in figures))
