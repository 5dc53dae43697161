"""The input of encoders: one jagged group of items per (user, domain).

Most users know few domains, so a dense users x domains x length cube would be mostly padding.
The same rule trims a history in training and in serving.

Dims: B rows, T items of all rows together, G groups (row, domain), D domains.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from crossfeed.config import ModelConfig
from crossfeed.model.users.grouping import group
from crossfeed.scorer import Catalogue, Histories, Ints

__all__ = ["Timelines", "build_timelines"]


@dataclass(frozen=True)
class Timelines:
    """A batch of trimmed histories, grouped by (row, domain); every row has its target's group."""

    item_rows: Tensor
    """(T,) the row of each trained item; sorted by group, oldest first within it."""
    groups: Tensor
    """(T,) the group that each item belongs to."""
    recency: Tensor
    """(T,) 0 for the newest item of its group, 1 for the one before, ..."""
    group_rows: Tensor
    """(G,) the row of each group; sorted by (row, domain)."""
    group_slots: Tensor
    """(G,) the group's place among its row's groups."""
    group_domains: Tensor
    """(G,) the domain of each group."""
    target_groups: Tensor
    """(B,) the group of each row's target domain."""
    target_domains: Tensor
    """(B,) the target domain of each row."""
    slots: Tensor
    """(M,) 0, 1, ...: as many as the groups of the largest row."""

    @property
    def rows(self) -> int:
        """Return B."""
        return self.target_domains.shape[0]  # not len(): an exported graph keeps B free

    def to(self, device: torch.device) -> Timelines:
        """Return the batch on another device."""
        return Timelines(
            **{field.name: getattr(self, field.name).to(device) for field in fields(self)}
        )


def build_timelines(
    histories: Histories, domains: Ints, *, catalogue: Catalogue, config: ModelConfig
) -> Timelines:
    """Trim and group a batch of histories.

    Args:
        histories: B histories, newest last.
        domains: (B,) the target domain of each row.
        catalogue: tells the domain and the row of each item.
        config: its `history_per_domain` newest items of each domain stay, and of those the
            `history_total` newest.
    """
    grouped = group(histories, domains, catalogue=catalogue, config=config)
    return Timelines(*(_tensor(values) for values in grouped))


def _tensor(values: Ints) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64))
