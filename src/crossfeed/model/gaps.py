"""Distances between the clicks of a domain and its candidates (claim 5 of CN111931062A).

Dims: B clicks of one domain, N items of its pool, E width, n domains that are looked at together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["GAPS", "Padding", "euclidean_gap", "kl_gap", "mmd_gap"]

FEATURES = 128
"""R: random features of the gap's kernel; the gap is about 1 / sqrt(2 R) of itself off."""


@dataclass(frozen=True)
class Padding:
    """The real rows and items among the padding of n domains in one batch."""

    rows: Tensor
    """(n, B) weight of each row in its domain's mean: equal for all rows, 0 for padding."""
    items: Tensor
    """(n, N) true if a place of the pool holds an item."""


def euclidean_gap(
    clicks: Tensor,
    confidence: Tensor,
    vectors: Tensor,
    padding: Padding | None = None,
    log_inclusion: Tensor | None = None,
) -> Tensor:
    """Return the Euclidean distance between the mean click and the mean candidate.

    || sum_i p_i v_i - sum_i g_i v_i ||, p the share of item i in the clicks.

    Args:
        clicks: (B,) position in the pool of each click of one domain; (n, B) of n domains.
        confidence: (..., B, N) the generator's confidence; its rows are averaged to g.
        vectors: (..., N, E) item vectors, detached here: the gap moves the generator's choice.
        padding: given for n domains.
        log_inclusion: (..., N) log pi of a sampled pool's items. Their confidence is g / pi, except
            for a row's own click, so sums over the sample are sums over the pool. Not used here.

    Returns:
        (...) the distance of each domain.
    """
    difference = _click_shares(clicks, confidence, padding) - _mean(confidence, padding)
    return _safe_norm(_weighted_sum(difference, vectors.detach()))


def kl_gap(
    clicks: Tensor,
    confidence: Tensor,
    vectors: Tensor,
    padding: Padding | None = None,
    log_inclusion: Tensor | None = None,
) -> Tensor:
    """Return the relative entropy KL(p || g) of smoothed click shares to mean confidence.

    p_i = (count_i + 1/N) / (B + 1): one click's worth of mass is spread over the N items that not
    all rows have seen. In a sampled pool confidence is g / pi. There g is restored for the
    logarithm, the spread mass is summed with the weights 1 / pi, and N is the sum of these weights.

    Args: as `euclidean_gap`; `vectors` is not used, `log_inclusion` is.
    """
    rows: int | Tensor = confidence.shape[-2]
    if padding is not None:
        rows = (padding.rows > 0).sum(-1, keepdim=True)
    mean = _mean(confidence, padding)
    held = (mean > 0).to(mean)
    weights = held
    if log_inclusion is not None:
        inclusion = log_inclusion.exp().where(mean > 0, 1.0)
        own = confidence.gather(-1, clicks.unsqueeze(-1)).squeeze(-1)  # (..., B) is g already
        own = own / rows if padding is None else own * padding.rows
        own = torch.zeros_like(mean).scatter_add(-1, clicks, own)
        # An item that is there as a click alone has log pi = +inf, and no other mass.
        mean = own + (mean - own) * inclusion.where(inclusion.isfinite(), 0.0)
        weights = held / inclusion
    size = weights.sum(-1, keepdim=True)
    counts = _click_shares(clicks, confidence, padding) * rows
    shares = (counts + held / size) / (rows + 1)
    masses = (counts + weights / size) / (rows + 1)
    mean = mean.clamp_min(torch.finfo(confidence.dtype).tiny)
    return (torch.xlogy(masses, shares) - masses * mean.log()).sum(-1)


def mmd_gap(
    clicks: Tensor,
    confidence: Tensor,
    vectors: Tensor,
    padding: Padding | None = None,
    log_inclusion: Tensor | None = None,
) -> Tensor:
    """Return the maximum mean discrepancy between clicks and candidates.

    sqrt((p - g)' K (p - g)), K_ij = exp(-|v_i - v_j|^2 / h), h the mean squared distance of the
    pool's vectors, estimated with the weights 1 / pi in a sampled pool. Random features
    approximate K, so time and memory grow with N, not with N squared: K = F F',
    F_ir = sqrt(2 / R) cos(sqrt(2 / h) w_r . v_i + b_r), w_r normal, b_r uniform.

    Args: as `euclidean_gap`.

    Source: Gretton et al. 2012, eq. 5 (biased estimate); Rahimi & Recht 2007, section 3.
    """
    difference = _click_shares(clicks, confidence, padding) - _mean(confidence, padding)
    features = _gaussian_features(vectors.detach(), log_inclusion)
    return _safe_norm(_weighted_sum(difference, features))


GAPS: Mapping[str, Callable[[Tensor, Tensor, Tensor, Padding | None, Tensor | None], Tensor]] = {
    "euclidean": euclidean_gap,
    "kl": kl_gap,
    "mmd": mmd_gap,
}
"""Name in `train.gap` -> distance of (clicks, confidence, vectors, padding, log_inclusion), by
domain."""


def _click_shares(clicks: Tensor, confidence: Tensor, padding: Padding | None) -> Tensor:
    """Return (..., N) the share of each item of the pool in the clicks."""
    empty = confidence.new_zeros(*clicks.shape[:-1], confidence.shape[-1])
    if padding is not None:
        return empty.scatter_add(-1, clicks, padding.rows.to(empty))
    return empty.scatter_add(-1, clicks, torch.ones_like(clicks).to(empty)) / clicks.shape[-1]


def _mean(confidence: Tensor, padding: Padding | None) -> Tensor:
    """Return (..., N) the mean over the rows."""
    if padding is None:
        return confidence.mean(dim=-2)
    return _weighted_sum(padding.rows.to(confidence), confidence)


def _weighted_sum(weights: Tensor, rows: Tensor) -> Tensor:
    """Return (..., E) the sum of rows (..., N, E) by weights (..., N)."""
    return (weights.unsqueeze(-2) @ rows).squeeze(-2)


def _gaussian_features(vectors: Tensor, log_inclusion: Tensor | None) -> Tensor:
    """Return (..., N, R) random features of the Gaussian kernel over a pool's vectors."""
    # The mean of |v_i - v_j|^2 over all i and j in closed form.
    if log_inclusion is None:
        centred = vectors - vectors.mean(dim=-2)
        spread = centred.square().sum(dim=-1).mean()
    else:
        shares = (-log_inclusion).softmax(dim=-1).to(vectors)  # 0 for padding
        centred = vectors - _weighted_sum(shares, vectors).unsqueeze(-2)
        spread = (centred.square().sum(dim=-1) * shares).sum(-1)[..., None, None]
    bandwidth = (2 * spread).clamp_min(1e-12)
    drawn = _random_directions(vectors.shape[-1], vectors.device)
    directions, phases = (each.to(vectors.dtype) for each in drawn)
    angles = torch.addmm(
        phases, (centred * (2 / bandwidth).sqrt()).flatten(0, -2), directions
    ).view(*centred.shape[:-1], FEATURES)
    return angles.cos_().mul_((2 / FEATURES) ** 0.5)


@lru_cache(maxsize=8)
def _random_directions(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the (E, R) directions and (R,) phases of the features; always the same ones."""
    source = torch.Generator().manual_seed(0)
    directions = torch.randn(width, FEATURES, generator=source)
    phases = 2 * torch.pi * torch.rand(FEATURES, generator=source)
    return directions.to(device), phases.to(device)


def _safe_norm(vector: Tensor) -> Tensor:
    """Return (...) the norm of each vector (..., E), with a finite gradient at zero."""
    return vector.square().sum(-1).clamp_min(1e-12).sqrt()
