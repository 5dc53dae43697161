"""The target loss of both players (claims 2-5 and 7 of CN111931062A) as pure functions.

Dims: B clicks (rows), K candidates per click, N items of the target domain's pool.

Symbols: s is the discriminator's score, g the generator's confidence, q the proposal from which
the candidates were drawn (g mixed with a static part), c the power of the correction.

    target loss = L1 + L2 + L3

    L1 = w1 . E_g[log g - s]                    moves the generator (claim 7)
       + wa . -log g(click)                     its anchor to real clicks
    L2 = -log softmax(s - c log q)[click]       moves the discriminator (claim 7)
    L3 = w3 . exp(-gap(clicks, g))              moves the generator (claims 4 and 5)

Both players minimise the same sum. Each term detaches the player that it does not move, so it has a
gradient for one player only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from crossfeed.config import Config
from crossfeed.model.candidates import Proposals, Scores

__all__ = [
    "TargetLoss",
    "anchor_loss",
    "binary_loss",
    "full_softmax_loss",
    "gap_loss",
    "generator_loss",
    "softmax_loss",
    "target_loss",
]


@dataclass(frozen=True)
class TargetLoss:
    """The terms of the target loss, weights included."""

    generator: Tensor
    """L1: expected log-confidence minus score."""
    anchor: Tensor
    """The generator's likelihood of real clicks, a part of L1."""
    discriminator: Tensor
    """L2: clicks against candidates."""
    gap: Tensor
    """L3: decreasing in the gap between clicks and candidates."""

    @property
    def total(self) -> Tensor:
        """Return L1 + L2 + L3, which both players minimise."""
        return self.generator + self.anchor + self.discriminator + self.gap


def target_loss(
    proposals: Proposals,
    scores: Scores,
    gaps: Tensor | None,
    config: Config,
    *,
    expanded_weight: float = 1.0,
) -> TargetLoss:
    """Return L1 + L2 + L3 of a batch.

    Args:
        proposals: the candidates and the generator's confidence in them.
        scores: the discriminator's scores of candidates and clicks.
        gaps: (n,) distance between clicks and candidates of each expanded domain of the batch;
            None leaves L3 out.
        config: weights and forms of the terms.
        expanded_weight: factor of the terms that are means over expanded rows alone.
    """
    train, zero = config.train, scores.clicks.new_zeros(())
    generator = gap = zero
    if train.reward_weight and proposals.expands_any:
        rows = slice(None) if proposals.expanded is None else proposals.expanded
        generator = train.reward_weight * generator_loss(
            proposals.candidate_log_confidence[rows],
            scores.candidates[rows],
            candidate_log_proposal=proposals.candidate_log_proposal[rows],
        )
    if gaps is not None:
        gap = train.gap_weight * gap_loss(gaps).mean()
    if expanded_weight != 1.0:
        generator, gap = expanded_weight * generator, expanded_weight * gap
    return TargetLoss(
        generator=generator,
        anchor=anchor_loss(proposals.click_log_confidence),
        discriminator=_discriminator_loss(proposals, scores, config),
        gap=gap,
    )


def _discriminator_loss(proposals: Proposals, scores: Scores, config: Config) -> Tensor:
    """Return L2 in the form that `train.objective` names."""
    if scores.pool is not None:
        return full_softmax_loss(scores.clicks, scores.pool)
    loss = softmax_loss if config.train.objective == "softmax" else binary_loss
    first, second = scores.candidates, scores.clicks
    if config.model.fuse == "residual":  # the discriminator learns what the generator misses
        first = first + proposals.candidate_log_confidence.detach()
        second = second + proposals.click_log_confidence.detach()
    return loss(
        second,
        first,
        click_log_proposal=proposals.click_log_proposal,
        candidate_log_proposal=proposals.candidate_log_proposal,
        correction=config.train.correction,
    )


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
    spreads the generator over items that the discriminator takes for real, and keeps it from
    collapsing onto one item. The gradient is the score-function estimate

        mean_bk w_bk (log g_bk - s_bk - baseline_bk) d log g_bk,   w = g / q,

    with w restoring the expectation under g from draws of q, and the mean of the row's other
    draws as baseline (Kool et al. 2019, section 2). The value is the expectation.

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
    """Return L3 = exp(-gap) in (0, 1], which falls as the gap grows (claim 4).

    Args:
        gap: a distance >= 0 between the distributions of clicks and candidates.
    """
    return torch.exp(-gap)
