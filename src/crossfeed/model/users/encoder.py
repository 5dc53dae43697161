"""The user encoder: a timeline becomes the user's vector in a target domain.

Dims: B rows, T items, G groups (row, domain), M slots (most domains that a row knows), E width,
H heads. Attention pooling makes one token per (user, domain). A transformer connects the domains,
and attention with the target domain as query reads them. Everything stays jagged, one
line per token; only the attention between a row's tokens is padded to B x M.

An exported graph must serve every batch: sizes are read from `shape`, never by `len()`, which would
fix them, and no size depends on a tensor's values outside of training.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from crossfeed.config import ModelConfig
from crossfeed.model.users.dropout import Dropout
from crossfeed.model.users.timelines import Timelines

__all__ = ["TimelineEncoder", "segment_counts", "segment_softmax"]

_COUNTS = 10
"""Number of classes of group sizes: none, 1, 2-3, 4-7, ... items."""


class TimelineEncoder(nn.Module):
    """Encode timelines as one vector per row."""

    def __init__(self, *, domains: int, config: ModelConfig) -> None:
        super().__init__()
        self.pooling = DomainPooling(domains=domains, config=config)
        self.layers = nn.ModuleList(CrossDomainLayer(config) for _ in range(config.layers))
        self.readout = TargetReadout(config)

    def forward(self, timelines: Timelines, item_table: nn.Embedding) -> Tensor:
        """Return (B, E) the vector of each row's user in its target domain."""
        tokens = self.pooling(timelines, item_table)  # (G, E)
        for layer in self.layers:
            tokens = layer(tokens, timelines)
        return self.readout(tokens, timelines)  # type: ignore[no-any-return]


class DomainPooling(nn.Module):
    """Pool the items of each (user, domain) by attention into one token."""

    def __init__(self, *, domains: int, config: ModelConfig) -> None:
        super().__init__()
        self.domain = nn.Embedding(domains, config.width)
        self.recency = nn.Embedding(config.history_per_domain, config.width)
        self.count = nn.Embedding(_COUNTS, config.width)
        self.attention = nn.Linear(config.width, config.heads)
        self.value = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = Dropout(config.dropout)
        for table in (self.domain, self.recency):
            nn.init.normal_(table.weight, std=0.02)
        nn.init.zeros_(self.count.weight)

    def forward(self, timelines: Timelines, item_table: nn.Embedding) -> Tensor:
        """Return (G, E) one token per group; a group without items is its domain alone."""
        items = item_table(timelines.item_rows) + self.recency(timelines.recency)  # (T, E)
        items = self.dropout(items)
        groups = timelines.group_rows.shape[0]
        weights = segment_softmax(self.attention(items), timelines.groups, groups)  # (T, H)
        pooled = segment_sum(weights, items, timelines.groups, groups)  # (G, E)
        # Projecting after the sum costs G rows instead of T and gives the same kind of function.
        # A weighted mean forgets the number of its items.
        counts = segment_counts(timelines.groups, groups)
        bounds = 2 ** torch.arange(_COUNTS - 1, device=counts.device) - 1  # 0, 1, 3, 7, ...
        sizes = (counts.unsqueeze(1) > bounds).sum(dim=1)  # integers, so rounding does not matter
        known = self.domain(timelines.group_domains) + self.count(sizes)
        return self.norm(self.value(pooled) + known)  # type: ignore[no-any-return]


class CrossDomainLayer(nn.Module):
    """One pre-norm transformer layer over each row's domain tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, 3 * config.width)
        self.output = nn.Linear(config.width, config.width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(config.width),
            nn.Linear(config.width, 2 * config.width),
            nn.GELU(),
            Dropout(config.dropout),
            nn.Linear(2 * config.width, config.width),
        )
        self.dropout = Dropout(config.dropout)

    def forward(self, tokens: Tensor, timelines: Timelines) -> Tensor:
        """Return (G, E) the tokens, each informed by the others of its row."""
        mixed = self._attend(self.projection(self.norm(tokens)), timelines)
        tokens = tokens + self.dropout(self.output(mixed))
        return tokens + self.dropout(self.feed_forward(tokens))  # type: ignore[no-any-return]

    def _attend(self, projected: Tensor, timelines: Timelines) -> Tensor:
        """Return (G, E) attention within each row; `projected` (G, 3E) is query, key, value.

        In training on a processor, rows with about equally many domains are padded together.
        Otherwise padding to the widest row would be most of a batch's cost.
        """
        rows, slots = timelines.group_rows, timelines.group_slots
        if not self.training or projected.is_cuda:  # a GPU would wait for the sizes below
            widest = timelines.slots.shape[0]
            return self._attend_padded(projected, rows, slots, count=timelines.rows, width=widest)
        known = torch.bincount(rows, minlength=timelines.rows)  # (B,) groups of each row
        parts, places = [], []
        for narrow, wide in _widths(timelines.slots.shape[0]):
            chosen = (known > narrow) & (known <= wide)
            within = chosen[rows].nonzero().squeeze(1)
            if len(within):
                renumbered = chosen.cumsum(0) - 1
                parts.append(
                    self._attend_padded(
                        projected.index_select(0, within),
                        renumbered[rows[within]],
                        slots[within],
                        count=int(chosen.sum()),
                        width=int(slots[within].max()) + 1,
                    )
                )
                places.append(within)
        mixed = torch.cat(parts)
        return torch.empty_like(mixed).index_copy(0, torch.cat(places), mixed)

    def _attend_padded(
        self, projected: Tensor, rows: Tensor, slots: Tensor, *, count: int, width: int
    ) -> Tensor:
        """Return (G, E) attention within each of `count` rows, all padded to `width` groups."""
        # One index instead of a pair: its gradient is a plain sum of rows.
        places = rows * width + slots
        padded = projected.new_zeros(count * width, projected.shape[1])
        padded = padded.index_copy(0, places, projected)  # (B * M, 3E)
        absent = torch.ones(count * width, dtype=torch.bool, device=projected.device)
        absent = absent.index_fill(0, places, False).reshape(count, width)
        query, key, value = (
            part.reshape(count, width, self.heads, -1).transpose(1, 2)  # (B, H, M, E/H)
            for part in padded.chunk(3, dim=-1)
        )
        logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5  # (B, H, M, M)
        weights = logits.masked_fill(absent[:, None, None, :], float("-inf")).softmax(dim=-1)
        mixed: Tensor = (weights @ value).transpose(1, 2).reshape(count * width, -1)  # (B * M, E)
        return mixed.index_select(0, places)


class TargetReadout(nn.Module):
    """Let the target domain's token attend to all tokens of its row."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = Dropout(config.dropout)

    def forward(self, tokens: Tensor, timelines: Timelines) -> Tensor:
        """Return (B, E) from the tokens (G, E) of all rows."""
        target = tokens.index_select(0, timelines.target_groups)  # (B, E)
        key, value = self.key_value(tokens).chunk(2, dim=-1)  # (G, E) each
        query = self.query(target).index_select(0, timelines.group_rows)  # (G, E)
        products = (query * key).reshape(tokens.shape[0], self.heads, -1)  # (G, H, E/H)
        logits = products.sum(dim=-1) * products.shape[-1] ** -0.5  # (G, H)
        weights = segment_softmax(logits, timelines.group_rows, timelines.rows)
        mixed = segment_sum(weights, value, timelines.group_rows, timelines.rows)  # (B, E)
        return self.norm(target + self.dropout(mixed))  # type: ignore[no-any-return]


def segment_softmax(logits: Tensor, segments: Tensor, count: int) -> Tensor:
    """Normalise `logits` (T, H) over the entries of each segment, numerically stable, in float32.

    Args:
        logits: (T, H) any real values.
        segments: (T,) the segment of each entry, in 0..count-1.
        count: number of segments; empty ones are allowed.
    """
    logits = logits.float()  # autocast would leave it bfloat16 on some devices
    index = segments.unsqueeze(1).expand_as(logits)
    with torch.no_grad():  # a constant per segment cancels out, so it needs no gradient
        peak = logits.new_zeros(count, logits.shape[1])
        peak = peak.scatter_reduce(0, index, logits, "amax", include_self=False)
    weights = (logits - peak[segments]).exp()
    total = weights.new_zeros(count, logits.shape[1]).index_add(0, segments, weights)
    return weights / total.index_select(0, segments)


def segment_sum(weights: Tensor, values: Tensor, segments: Tensor, count: int) -> Tensor:
    """Return (count, E) the sum of each segment's values, weighted per head.

    Args:
        weights: (T, H) one weight per entry and head.
        values: (T, E) E divides into H heads.
        segments: (T,) the segment of each entry.
        count: number of segments; an empty one sums to zero.
    """
    heads = weights.shape[1]
    by_head = values.reshape(values.shape[0], heads, values.shape[1] // heads)  # (T, H, E/H)
    weighted = (weights.unsqueeze(-1) * by_head).flatten(1)  # (T, E)
    return weighted.new_zeros(count, values.shape[1]).index_add(0, segments, weighted)


def segment_counts(segments: Tensor, count: int) -> Tensor:
    """Return (count,) how many entries (T,) each segment has."""
    return segments.new_zeros(count).index_add(0, segments, torch.ones_like(segments))


def _widths(widest: int) -> Iterator[tuple[int, int]]:
    """Yield (narrow, wide] ranges of a row's groups that cover 1..widest, each twice the last."""
    narrow, wide = 0, 2
    while narrow < widest:
        yield narrow, wide
        narrow, wide = wide, 2 * wide
