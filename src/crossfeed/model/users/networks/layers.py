"""Layers that the multi-domain networks share.

Dims: B rows, D domains, E width, X experts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossfeed.config import ModelConfig
from crossfeed.model.users.dropout import Dropout

__all__ = ["DomainLinear", "DomainOffsets", "Experts", "by_domain", "feed_forward", "mix"]


class DomainLinear(nn.Module):
    """One linear layer per domain; a row uses the layer of its target domain."""

    undecayed = ("bias",)

    def __init__(self, domains: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)  # as nn.Linear
        self.weight = nn.Parameter(torch.empty(domains, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(domains, outputs))

    def forward(self, rows: Tensor, domains: Tensor) -> Tensor:
        """Return (B, outputs) from `rows` (B, inputs) and the target domain (B,) of each."""
        return by_domain(rows, domains, self.weight, self.bias)


class DomainOffsets(nn.Embedding):
    """One vector per domain that shifts or scales the rows of its domain."""

    undecayed = ("weight",)


class Experts(nn.Module):
    """Several networks of the same form over the same rows."""

    def __init__(self, experts: int, config: ModelConfig) -> None:
        super().__init__()
        self.experts = nn.ModuleList(feed_forward(config) for _ in range(experts))

    def forward(self, rows: Tensor) -> Tensor:
        """Return (B, X, E) each expert's output for each row (B, E)."""
        return torch.stack([expert(rows) for expert in self.experts], dim=1)


def feed_forward(config: ModelConfig) -> nn.Sequential:
    """Return a network (B, E) -> (B, E) with one hidden layer."""
    return nn.Sequential(
        nn.Linear(config.width, config.width),
        nn.GELU(),
        Dropout(config.dropout),
        nn.Linear(config.width, config.width),
    )


def mix(experts: Tensor, logits: Tensor) -> Tensor:
    """Return (B, E) the experts (B, X, E) weighted by the softmax of their gate (B, X)."""
    return torch.einsum("bx,bxe->be", logits.softmax(dim=1), experts)


def by_domain(rows: Tensor, domains: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return (B, outputs): each row times the weight (D, outputs, inputs) of its domain.

    This takes one product per present domain; gathering a matrix per row would move B matrices. An
    exported graph cannot ask which domains are present and serves few rows, so it gathers.
    """
    if torch.compiler.is_exporting():
        return torch.einsum("bi,boi->bo", rows, weight[domains]) + bias[domains]
    present, row_of = torch.unique(domains, return_inverse=True)
    order = row_of.argsort(stable=True)
    counts = row_of.bincount(minlength=len(present)).tolist()
    parts = torch.split(rows.index_select(0, order), counts)
    products = [
        functional.linear(part, weight[domain], bias[domain])
        for part, domain in zip(parts, present.tolist(), strict=True)
    ]
    stacked = torch.cat(products) if products else rows.new_zeros(0, weight.shape[1])
    return stacked.index_select(0, order.argsort())
