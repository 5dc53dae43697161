"""The generator's encoder: a user is the weighted sum of the clicked items.

Two players that read histories alike make the same mistakes. This one has no attention, no order
and no layer between items and user, as in asymmetric factor models (Paterek 2007; Kabbur et al.
2013), which generalise from few clicks. The discriminator reads a history differently, and the sum
of both ranks better than either.

Dims: B rows, T items, D domains, E width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossfeed.config import ModelConfig
from crossfeed.model.users.dropout import Dropout
from crossfeed.model.users.encoder import segment_counts
from crossfeed.model.users.timelines import Timelines

__all__ = ["LinearEncoder"]


class LinearEncoder(nn.Module):
    """Encode timelines as sums of item vectors, weighted by pairs of domains."""

    def __init__(self, *, domains: int, config: ModelConfig) -> None:
        super().__init__()
        self.log_weights = nn.Parameter(torch.zeros(domains, domains))
        """(D, D) log of the weight of one domain's events in another, the target."""
        self.target = nn.Embedding(domains, config.width)
        self.dropout = Dropout(config.dropout)
        self.output = nn.Linear(config.width, config.width)
        nn.init.zeros_(self.target.weight)

    def forward(self, timelines: Timelines, item_table: nn.Embedding) -> Tensor:
        """Return (B, E) the vector of each row's user in its target domain."""
        items = self.dropout(item_table(timelines.item_rows))  # (T, E)
        rows = timelines.group_rows[timelines.groups]  # (T,)
        domains = timelines.group_domains[timelines.groups]
        pairs = domains * self.log_weights.shape[1] + timelines.target_domains[rows]
        weights = self.log_weights.flatten().index_select(0, pairs).exp()
        summed = items.new_zeros(timelines.rows, items.shape[1])
        summed = summed.index_add(0, rows, items * weights.unsqueeze(1))
        # Between mean and sum: more clicks say more, but not in proportion.
        counts = segment_counts(rows, timelines.rows).clamp_min(1)
        users = summed * counts.to(summed).rsqrt().unsqueeze(1)
        return self.output(users + self.target(timelines.target_domains))  # type: ignore[no-any-return]
