"""Histories trimmed and grouped by (row, domain), by one rule for training and serving.

Plain numpy, so serving needs no torch.

Dims: B rows, T items of all rows together, G groups (row, domain), D domains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from crossfeed.config import ModelConfig
from crossfeed.scorer import Catalogue, Floats, Histories, Ints

__all__ = ["Grouped", "encoded", "group", "trimmed"]

_ROWS_AT_ONCE = 1024


class Grouped(NamedTuple):
    """A batch of trimmed histories; `Timelines` describes the same fields."""

    item_rows: Ints
    groups: Ints
    recency: Ints
    group_rows: Ints
    group_slots: Ints
    group_domains: Ints
    target_groups: Ints
    target_domains: Ints
    slots: Ints


def trimmed(histories: Histories, *, catalogue: Catalogue, config: ModelConfig) -> Histories:
    """Return histories with the newest `history_per_domain` trained items of each domain.

    Of those the `history_total` newest stay. Trimming again changes nothing.
    """
    histories = histories.where(catalogue.rows_of(histories.items) >= 0)
    if len(histories.items) <= min(config.history_per_domain, config.history_total):
        return histories
    rows, domains = histories.rows(), catalogue.domain_of(histories.items)
    # Only by domain, which takes no comparisons: rows are in order, so the items of one row and
    # domain still come together.
    order = np.argsort(domains.astype(np.min_scalar_type(domains.max())), kind="stable")
    keys = rows * len(catalogue.domains) + domains
    stays = np.zeros(len(rows), np.bool_)
    stays[order[_recency(keys[order]) < config.history_per_domain]] = True
    newest = np.flatnonzero(stays)
    stays[newest[_recency(rows[newest]) >= config.history_total]] = False
    return histories.where(stays)


def group(
    histories: Histories, domains: Ints, *, catalogue: Catalogue, config: ModelConfig
) -> Grouped:
    """Trim and group a batch of histories.

    Args:
        histories: B histories, newest last.
        domains: (B,) the target domain of each row.
        catalogue: tells the domain and the row of each item.
        config: its `history_per_domain` newest items of each domain stay, and of those the
            `history_total` newest.
    """
    width, count = len(catalogue.domains), len(histories)
    histories = trimmed(histories, catalogue=catalogue, config=config)
    keys = histories.rows() * width + catalogue.domain_of(histories.items)  # one per (row, domain)
    order = np.argsort(keys, kind="stable")
    items, keys = histories.items[order], keys[order]
    # Every row has a group for its target domain, even without an item.
    is_there = np.zeros(count * width, np.bool_)
    is_there[keys] = True
    target_keys = np.arange(count) * width + domains
    is_there[target_keys] = True
    group_keys = np.flatnonzero(is_there)
    group_of = np.cumsum(is_there) - 1
    groups = group_of[keys]
    group_rows = group_keys // width
    first_of_row = np.searchsorted(group_rows, np.arange(count))
    slots = np.arange(len(group_keys)) - first_of_row[group_rows]
    return Grouped(
        item_rows=catalogue.rows_of(items),
        groups=groups,
        recency=_recency(groups),
        group_rows=group_rows,
        group_slots=slots,
        group_domains=group_keys % width,
        target_groups=group_of[target_keys],
        target_domains=np.ascontiguousarray(domains, dtype=np.int64),
        slots=np.arange(slots.max(initial=-1) + 1),
    )


def encoded(
    encode: Callable[[Histories, Ints], Floats], histories: Histories, domains: Ints, *, width: int
) -> Floats:
    """Return (B, E) the users that `encode` gives for histories and target domains, in chunks."""
    chunks = [
        encode(
            histories.rows_between(first, first + _ROWS_AT_ONCE),
            domains[first : first + _ROWS_AT_ONCE],
        )
        for first in range(0, len(histories), _ROWS_AT_ONCE)
    ]
    return np.concatenate([np.zeros((0, width), np.float32), *chunks])


def _recency(sorted_keys: Ints) -> Ints:
    """Return the number of later entries with the same key as each entry."""
    is_last = np.append(sorted_keys[1:] != sorted_keys[:-1], len(sorted_keys) > 0)
    ends = np.flatnonzero(is_last)
    counts = np.diff(ends, prepend=-1)
    return np.repeat(ends, counts) - np.arange(len(sorted_keys))
