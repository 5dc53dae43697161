"""The user encoder: a timeline becomes the user's vector in a target domain.

Dims: B rows, T items, G groups (row, domain), M slots (most domains that a row knows), E width,
H heads. Attention pooling makes one token per (user, domain), a transformer lets the domains
inform each other, and the target domain asks them for what it needs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossfeed.config import ModelConfig
from crossfeed.model.timelines import Timelines

__all__ = ["TimelineEncoder"]


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
        padded, present = _pad(tokens, timelines)  # (B, M, E), (B, M)
        for layer in self.layers:
            padded = layer(padded, present)
        rows = torch.arange(timelines.rows, device=padded.device)
        target = padded[rows, timelines.target_slots]  # (B, E)
        return self.readout(target, padded, present)  # type: ignore[no-any-return]


class DomainPooling(nn.Module):
    """Pool the items of each (user, domain) by attention into one token."""

    def __init__(self, *, domains: int, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.domain = nn.Embedding(domains, config.width)
        self.recency = nn.Embedding(config.history_per_domain, config.width)
        self.attention = nn.Linear(config.width, config.heads)
        self.value = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        for table in (self.domain, self.recency):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, timelines: Timelines, item_table: nn.Embedding) -> Tensor:
        """Return (G, E) one token per group; a group without items is its domain alone."""
        items = item_table(timelines.items) + self.recency(timelines.recency)  # (T, E)
        items = self.dropout(items)
        groups = len(timelines.group_rows)
        weights = segment_softmax(self.attention(items), timelines.groups, groups)  # (T, H)
        values = self.value(items).unflatten(-1, (self.heads, -1))  # (T, H, E/H)
        weighted = (weights.unsqueeze(-1) * values).flatten(1)  # (T, E)
        pooled = weighted.new_zeros(groups, weighted.shape[1])
        pooled = pooled.index_add(0, timelines.groups, weighted)  # (G, E)
        return self.norm(pooled + self.domain(timelines.group_domains))  # type: ignore[no-any-return]


class CrossDomainLayer(nn.Module):
    """One pre-norm transformer layer over a row's domain tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout_share = config.dropout
        self.norm = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, 3 * config.width)
        self.output = nn.Linear(config.width, config.width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(config.width),
            nn.Linear(config.width, 2 * config.width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(2 * config.width, config.width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Return (B, M, E); `present` (B, M) says which slots hold a domain."""
        projected = self.projection(self.norm(tokens))  # (B, M, 3E)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, M, E/H)
            for part in projected.chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=present[:, None, None, :]
        )
        tokens = tokens + self.dropout(self.output(mixed.transpose(1, 2).flatten(2)))
        return tokens + self.dropout(self.feed_forward(tokens))


class TargetReadout(nn.Module):
    """Let the target domain's token attend to all tokens of its row."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, target: Tensor, tokens: Tensor, present: Tensor) -> Tensor:
        """Return (B, E) from `target` (B, E), `tokens` (B, M, E) and `present` (B, M)."""
        query = self.query(target).unsqueeze(1)  # (B, 1, E)
        mixed = F.scaled_dot_product_attention(
            query, self.key(tokens), self.value(tokens), attn_mask=present.unsqueeze(1)
        )
        return self.norm(target + self.dropout(mixed.squeeze(1)))  # type: ignore[no-any-return]


def segment_softmax(logits: Tensor, segments: Tensor, count: int) -> Tensor:
    """Normalise `logits` (T, H) over the entries of each segment, numerically stable.

    Args:
        logits: (T, H) any real values.
        segments: (T,) the segment of each entry, in 0..count-1.
        count: number of segments; empty ones are allowed.
    """
    index = segments.unsqueeze(1).expand_as(logits)
    with torch.no_grad():  # a constant per segment cancels out, so it needs no gradient
        peak = logits.new_zeros(count, logits.shape[1])
        peak = peak.scatter_reduce(0, index, logits, "amax", include_self=False)
    weights = (logits - peak[segments]).exp()
    total = weights.new_zeros(count, logits.shape[1]).index_add(0, segments, weights)
    return weights / total[segments]


def _pad(tokens: Tensor, timelines: Timelines) -> tuple[Tensor, Tensor]:
    """Return the groups' tokens as (B, M, E) and which slots hold one as (B, M)."""
    slots = int(timelines.group_slots.max()) + 1 if len(tokens) else 1
    padded = tokens.new_zeros(timelines.rows, slots, tokens.shape[1])
    padded = padded.index_put((timelines.group_rows, timelines.group_slots), tokens)
    present = torch.zeros(timelines.rows, slots, dtype=torch.bool, device=tokens.device)
    present[timelines.group_rows, timelines.group_slots] = True
    return padded, present
