"""Histories trimmed and grouped by (row, domain): the rule of training and serving alike.

Plain numpy, so that what serves needs no torch.

Dims: B rows, T items of all rows together, G groups (row, domain), D domains.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from crossfeed.config import ModelConfig
from crossfeed.scorer import Catalogue, Histories, Ints

__all__ = ["Grouped", "group"]


class Grouped(NamedTuple):
    """A batch of trimmed histories; `Timelines` has the same fields and says what they are."""

    items: Ints
    groups: Ints
    recency: Ints
    group_rows: Ints
    group_slots: Ints
    group_domains: Ints
    target_groups: Ints
    target_domains: Ints
    slots: Ints


def group(
    histories: Histories, domains: Ints, *, catalogue: Catalogue, config: ModelConfig
) -> Grouped:
    """Trim and group a batch of histories.

    Args:
        histories: B histories, newest last.
        domains: (B,) the target domain of each row.
        catalogue: tells the domain of each item.
        config: its `history_per_domain` newest items of each domain stay, and of those the
            `history_total` newest.
    """
    width, count = len(catalogue.domains), len(histories)
    rows, items = histories.rows(), histories.items
    of_items = catalogue.domain_of(items)
    keys = rows * width + of_items  # (T,) one key per (row, domain)
    order = _trimmed(keys, of_items, rows, config)
    items, keys = items[order], keys[order]
    # Every row has a group of its target domain, also where it holds no item.
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
        items=items,
        groups=groups,
        recency=_recency(groups),
        group_rows=group_rows,
        group_slots=slots,
        group_domains=group_keys % width,
        target_groups=group_of[target_keys],
        target_domains=np.ascontiguousarray(domains, dtype=np.int64),
        slots=np.arange(slots.max(initial=-1) + 1),
    )


def _trimmed(keys: Ints, domains: Ints, rows: Ints, config: ModelConfig) -> Ints:
    """Return where the entries that stay are, sorted by key, oldest first within each."""
    if len(keys) <= min(config.history_per_domain, config.history_total):
        return np.argsort(keys, kind="stable")
    # By domain alone, which takes no comparisons: the rows are sorted already, so that entries of
    # one key come together all the same.
    order = np.argsort(domains.astype(np.min_scalar_type(domains.max())), kind="stable")
    stays = np.zeros(len(keys), np.bool_)
    stays[order[_recency(keys[order]) < config.history_per_domain]] = True
    kept = np.flatnonzero(stays)
    kept = kept[_recency(rows[kept]) < config.history_total]
    return kept[np.argsort(keys[kept], kind="stable")]


def _recency(sorted_keys: Ints) -> Ints:
    """Return how many entries of the same key follow each entry."""
    is_last = np.append(sorted_keys[1:] != sorted_keys[:-1], len(sorted_keys) > 0)
    ends = np.flatnonzero(is_last)
    counts = np.diff(ends, prepend=-1)
    return np.repeat(ends, counts) - np.arange(len(sorted_keys))
