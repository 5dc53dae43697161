"""The target loss of both players (claims 2-5 and 7 of CN111931062A) as pure functions.

Dims: B clicks (rows), K candidates per click, N items of the target domain's pool, E width.

Symbols: s is the discriminator's score, g the generator's confidence, q the proposal from which
the candidates were drawn (g mixed with a static part), c the power of the correction.

    target loss = L1 + L2 + L3

    L1 = w1 . E_g[log g - s]                    moves the generator (claim 7)
       + wa . -log g(click)                     its anchor to real clicks
    L2 = -log softmax(s - c log q)[click]       moves the discriminator (claim 7)
    L3 = w3 . exp(-gap(clicks, g) / tau)        moves the generator (claims 4 and 5)

Both phases minimise the same sum; what belongs to the player that rests is detached, so each term
has a gradient for one player only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "GAPS",
    "Padding",
    "anchor_loss",
    "binary_loss",
    "euclidean_gap",
    "full_softmax_loss",
    "gap_loss",
    "generator_loss",
    "kl_gap",
    "mmd_gap",
    "softmax_loss",
]

FEATURES = 128
"""R: random features of the gap's kernel; the gap is about 1 / sqrt(2 R) of itself off."""


def softmax_loss(
    click_scores: Tensor,
    candidate_scores: Tensor,
    *,
    click_log_proposal: Tensor,
    candidate_log_proposal: Tensor,
    correction: float,
) -> Tensor:
    """Return L2, which of click and candidates was clicked, averaged over the clicks.

    mean_b -log( exp(s_b - c log q_b) / (exp(s_b - c log q_b) + sum_k exp(s_bk - c log q_bk)) )

    With c = 1 the score estimates log p(item | user, domain) up to a constant per row, whatever
    the proposal; with c = 0 it estimates the log of clicks against proposal.

    Args:
        click_scores: (B,) second score: s of each click.
        candidate_scores: (B, K) first score: s of each click's candidates.
        click_log_proposal: (B,) log q of each click.
        candidate_log_proposal: (B, K) log q of each candidate.
        correction: c, 0 to 1.

    Source: Gutmann & Hyvarinen 2010; Bengio & Senecal 2008, section III; Ma & Collins 2018, eq. 3.
    """
    corrected = torch.cat(
        [
            (click_scores - correction * click_log_proposal).unsqueeze(1),
            candidate_scores - correction * candidate_log_proposal,
        ],
        dim=1,
    )  # (B, 1 + K)
    return -corrected.log_softmax(dim=1)[:, 0].mean()


def binary_loss(
    click_scores: Tensor,
    candidate_scores: Tensor,
    *,
    click_log_proposal: Tensor,
    candidate_log_proposal: Tensor,
    correction: float,
) -> Tensor:
    """Return L2 in its published form: real against generated, one by one.

    mean_b ( -log sigma(s_b - c log(K q_b)) - sum_k log sigma(c log(K q_bk) - s_bk) ) / (1 + K)

    With c = 0 this is the discriminator's loss of a GAN (Goodfellow et al. 2014, eq. 1) with K
    generated samples per real one; with c = 1 it is noise-contrastive estimation.

    Args: as `softmax_loss`.
    """
    count = candidate_scores.shape[1]
    log_count = math.log(count)
    real = click_scores - correction * (click_log_proposal + log_count)  # (B,)
    generated = candidate_scores - correction * (candidate_log_proposal + log_count)  # (B, K)
    loss = -F.logsigmoid(real) - F.logsigmoid(-generated).sum(dim=1)
    return loss.mean() / (1 + count)


def full_softmax_loss(click_scores: Tensor, pool_scores: Tensor) -> Tensor:
    """Return L2 over the whole pool: the likelihood of the clicks, without candidates.

    mean_b -(s_b - log sum_i exp(s_bi)), i over the row's pool

    Args:
        click_scores: (B,) second score: s of each click.
        pool_scores: (B,) log of the summed exp(s) over each row's pool.
    """
    return (pool_scores - click_scores).mean()


def generator_loss(
    candidate_log_confidence: Tensor,
    candidate_scores: Tensor,
    *,
    candidate_log_proposal: Tensor,
) -> Tensor:
    """Return L1, expected log-confidence minus score over the generator's draws.

    mean_b E_g[log g - s] is the divergence KL(g || softmax(s)) up to a constant, so minimising it
    spreads the generator over what the discriminator takes for real instead of collapsing onto
    one item. The gradient is the score-function estimate

        mean_bk w_bk (log g_bk - s_bk - baseline_bk) d log g_bk,   w = g / q,

    with w restoring the expectation under g from draws of q, and the mean of the row's other
    draws as baseline (Kool et al. 2019, section 2). The value is that of the expectation.

    Args:
        candidate_log_confidence: (B, K) log g of each candidate; carries the gradient.
        candidate_scores: (B, K) first score of each candidate; detached here.
        candidate_log_proposal: (B, K) log q of each candidate; detached here. K is at least 2.
    """
    count = candidate_log_confidence.shape[1]
    log_confidence = candidate_log_confidence.detach()
    weights = (log_confidence - candidate_log_proposal.detach()).exp()  # (B, K)
    costs = log_confidence - candidate_scores.detach()  # (B, K)
    weighted = weights * costs
    baselines = (weighted.sum(1, keepdim=True) - weighted) / (count - 1)
    gradient_only = candidate_log_confidence - log_confidence  # 0 with the gradient of log g
    return (weighted + weights * (costs - baselines) * gradient_only).mean()


def anchor_loss(click_log_confidence: Tensor) -> Tensor:
    """Return mean_b -log g(click), which ties the generator to real clicks.

    Args:
        click_log_confidence: (B,) log g of each click.
    """
    return -click_log_confidence.mean()


def gap_loss(gap: Tensor) -> Tensor:
    """Return L3 = exp(-gap): in (0, 1], the smaller the larger the gap (claim 4).

    Args:
        gap: a distance >= 0 between the distributions of clicks and candidates.
    """
    return torch.exp(-gap)


@dataclass(frozen=True)
class Padding:
    """What is no padding where n domains of one batch are looked at together."""

    rows: Tensor
    """(n, B) what a row counts in a mean over its domain's: the same for all, 0 for padding."""
    items: Tensor
    """(n, N) whether a place of the pool holds an item."""


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
        padding: where there are n domains.
        log_inclusion: (..., N) log pi of a sampled pool's items, whose confidence is g / pi but of
            a row's own click; not used, because sums over those are sums over the pool.

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
    all rows have seen. Of a sampled pool confidence is g / pi: g is restored for the logarithm,
    what is spread is summed with the weights 1 / pi, and N is the sum of these.

    Args: as `euclidean_gap`; `vectors` is not used, `log_inclusion` is.
    """
    rows: int | Tensor = confidence.shape[-2]
    if padding is not None:
        rows = (padding.rows > 0).sum(-1, keepdim=True)
    mean = _mean(confidence, padding)
    held = (mean > 0).to(mean)
    weights = held
    if log_inclusion is not None:
        inclusion = log_inclusion.exp().where(mean > 0, 1.0)  # finite for padding too
        own = confidence.gather(-1, clicks.unsqueeze(-1)).squeeze(-1)  # (..., B) is g already
        own = own / rows if padding is None else own * padding.rows
        own = torch.zeros_like(mean).scatter_add(-1, clicks, own)
        mean = own + (mean - own) * inclusion
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
    pool's vectors. K is that of random features, so that time and memory grow with N, not with N
    squared: K = F F', F_ir = sqrt(2 / R) cos(sqrt(2 / h) w_r . v_i + b_r), w_r normal, b_r uniform.

    Args: as `euclidean_gap`.

    Source: Gretton et al. 2012, eq. 5 (biased estimate); Rahimi & Recht 2007, section 3.
    """
    difference = _click_shares(clicks, confidence, padding) - _mean(confidence, padding)
    return _safe_norm(_weighted_sum(difference, _gaussian_features(vectors.detach(), padding)))


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


def _gaussian_features(vectors: Tensor, padding: Padding | None) -> Tensor:
    """Return (..., N, R) random features of the Gaussian kernel over a pool's vectors."""
    # The mean of |v_i - v_j|^2 over all i and j in closed form.
    if padding is None:
        centred = vectors - vectors.mean(dim=-2)
        spread = centred.square().sum(dim=-1).mean()
    else:
        shares = (padding.items / padding.items.sum(-1, keepdim=True)).to(vectors)
        centred = vectors - _weighted_sum(shares, vectors).unsqueeze(-2)
        spread = (centred.square().sum(dim=-1) * shares).sum(-1)[:, None, None]
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
