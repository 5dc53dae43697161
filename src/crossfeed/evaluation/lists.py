"""Figures over all recommended lists: coverage, concentration, novelty.

Dims: N items, of one pool or of several; L entries of lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossfeed.evaluation.ranking import TopLists
from crossfeed.scorer import Ints

__all__ = ["ListCounts", "coverage", "gini", "information", "list_figures", "novelty"]

Values = NDArray[np.float64]


@dataclass(frozen=True)
class ListCounts:
    """How often each item was recommended, counted list by list."""

    expected: Values
    """(N,) expected number of lists that hold the item."""
    log_absence: Values
    """(N,) log of the probability that no list holds it; -inf if one certainly does."""

    @classmethod
    def none(cls, items: int) -> ListCounts:
        """Return the counts before any list."""
        return cls(np.zeros(items), np.zeros(items))

    @classmethod
    def joined(cls, parts: Sequence[ListCounts]) -> ListCounts:
        """Return the counts over the items of several pools as one."""
        return cls(
            expected=np.concatenate([part.expected for part in parts]),
            log_absence=np.concatenate([part.log_absence for part in parts]),
        )

    @classmethod
    def added(cls, parts: Sequence[ListCounts]) -> ListCounts:
        """Return the counts of the lists of several parts of the events, over the same items."""
        return cls(
            expected=np.sum([part.expected for part in parts], axis=0),
            log_absence=np.sum([part.log_absence for part in parts], axis=0),
        )

    def add(self, lists: TopLists) -> None:
        """Count the entries of some lists."""
        np.add.at(self.expected, lists.columns, lists.shares)
        with np.errstate(divide="ignore"):  # log 0: certainly in the list
            np.add.at(self.log_absence, lists.columns, np.log1p(-lists.shares))


def information(clicks: Ints) -> Values:
    """Return (N,) -log2 of each item's share of the training clicks of its domain, in bits.

    An item without a training click counts as one with one.
    """
    return np.asarray(-np.log2(np.maximum(clicks, 1) / max(clicks.sum(), 1)))


def list_figures(counts: ListCounts, bits: Values, k: int) -> dict[str, float]:
    """Return coverage, Gini and novelty of lists of `k`; empty lists have no figures.

    Args:
        counts: of the items of one domain, or of several as one catalogue.
        bits: (N,) `information` of each item inside its domain.
        k: length of the lists, for the figures' names.
    """
    figures = {f"coverage@{k}": coverage(counts)} if len(counts.expected) else {}
    if counts.expected.any():
        figures |= {f"gini@{k}": gini(counts), f"novelty@{k}": novelty(counts, bits)}
    return figures


def coverage(counts: ListCounts) -> float:
    """Return the expected share of the items that are in at least one list, in [0, 1].

    Source: Ge et al. 2010 (catalogue coverage).
    """
    return float(0.0 - np.expm1(counts.log_absence).mean())  # 0 - 0 is no -0


def gini(counts: ListCounts) -> float:
    """Return the Gini index of the recommendations per item, in [0, 1): 0 if all are alike.

    sum_i (2 i - N - 1) c_i / (N sum_i c_i), c_1 <= ... <= c_N, with items that were never
    recommended.

    Source: Adomavicius & Kwon 2012.
    """
    ordered = np.sort(counts.expected)
    items = len(ordered)
    weights = 2 * np.arange(1, items + 1) - items - 1
    return float(weights @ ordered / (items * ordered.sum()))


def novelty(counts: ListCounts, bits: Values) -> float:
    """Return the mean self-information of the recommended items, in bits.

    Source: Zhou et al. 2010; Vargas & Castells 2011 (without discount by rank).
    """
    return float(counts.expected @ bits / counts.expected.sum())
