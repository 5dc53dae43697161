"""One step of each player: the one target loss, minimised for the player that moves.

Dims: B clicks, K candidates per click.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from crossfeed.config import Config, TrainConfig
from crossfeed.errors import NonFiniteLossError
from crossfeed.model.items.layer import values_of
from crossfeed.model.losses import (
    GAPS,
    anchor_loss,
    binary_loss,
    full_softmax_loss,
    gap_loss,
    generator_loss,
    softmax_loss,
)
from crossfeed.model.players import Players
from crossfeed.training.parallel.distributed import ALONE, Workers
from crossfeed.training.step.batches import Batch
from crossfeed.training.step.optimiser import PlayerOptimiser
from crossfeed.training.step.proposals import Proposals

__all__ = [
    "Move",
    "Scores",
    "TargetLoss",
    "discriminator_step",
    "generator_step",
    "has_gap",
    "score",
    "target_loss",
]

MOST_GRADIENT = 5.0
"""Largest norm of a player's gradient in one step."""


@dataclass(frozen=True)
class Scores:
    """The discriminator's scores of a batch (claim 6)."""

    candidates: Tensor
    """(B, K) first score."""
    clicks: Tensor
    """(B,) second score."""
    pool: Tensor | None
    """(B,) log of the summed exp(score) over the row's whole pool, if the objective asks for it."""

    def detached(self) -> Scores:
        """Return the same without gradients."""
        pool = None if self.pool is None else self.pool.detach()
        return Scores(self.candidates.detach(), self.clicks.detach(), pool)


@dataclass(frozen=True)
class TargetLoss:
    """The terms of the target loss, weights included; their sum is what both players minimise."""

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
        """Return L1 + L2 + L3."""
        return self.generator + self.anchor + self.discriminator + self.gap


@dataclass(frozen=True)
class Move:
    """What one step of a player saw and did."""

    losses: TargetLoss
    scores: Scores
    gradient_norm: Tensor
    """Of the player that moved, before it was clipped."""


def score(players: Players, batch: Batch, proposals: Proposals, config: TrainConfig) -> Scores:
    """Score the candidates (first score) and the clicks (second score) of a batch."""
    discriminator = players.discriminator
    pools = discriminator.scoring_layer.pools([group.items for group in batch.groups])
    users = batch.by_domain(discriminator.users(batch.timelines, batch.times))
    candidates = batch.by_domain(proposals.candidates)
    both, pool = [], []
    for group, rows, drawn, (vectors, biases) in zip(
        batch.groups, users, candidates, pools, strict=True
    ):
        scores = values_of(rows, vectors, biases)  # (..., b, N)
        places = torch.cat([drawn, group.clicks.unsqueeze(-1)], -1)
        both.append(scores.gather(-1, places).float())
        if config.objective == "full-softmax":
            pool.append(group.as_masses(scores).logsumexp(dim=-1))
    first_and_second = batch.together(both)  # (B, K + 1)
    return Scores(
        first_and_second[:, :-1], first_and_second[:, -1], batch.together(pool) if pool else None
    )


def target_loss(
    players: Players, batch: Batch, proposals: Proposals, scores: Scores, config: Config
) -> TargetLoss:
    """Return L1 + L2 + L3 of a batch; detach what belongs to the player that rests."""
    train = config.train
    zero = scores.clicks.new_zeros(())
    log_confidence = proposals.candidate_log_confidence
    generator = gap = zero
    expanded = proposals.expanded
    if train.reward_weight and proposals.expands_any:
        rows = slice(None) if expanded is None else expanded
        generator = train.reward_weight * generator_loss(
            log_confidence[rows],
            scores.candidates[rows],
            candidate_log_proposal=proposals.candidate_log_proposal[rows],
        )
    if has_gap(proposals, train):
        gap = train.gap_weight * _gap(players, batch, proposals, config)
    return TargetLoss(
        generator=generator,
        anchor=anchor_loss(proposals.click_log_confidence),
        discriminator=_discriminator_loss(proposals, scores, config),
        gap=gap,
    )


def has_gap(proposals: Proposals, config: TrainConfig) -> bool:
    """Return whether L3 is a term of the batch's target loss."""
    wanted = config.gap != "none" and config.gap_weight > 0
    return wanted and bool(proposals.confidences) and proposals.expands_any


def generator_step(
    players: Players,
    optimiser: PlayerOptimiser,
    batch: Batch,
    proposals: Proposals,
    scores: Scores,
    config: Config,
    *,
    workers: Workers = ALONE,
) -> Move:
    """Move the generator by the scores of the discriminator, which stays as it is."""
    resting = scores.detached()
    losses = target_loss(players, batch, proposals, resting, config)
    _require_finite(losses, batch, proposals, resting)
    norm = _move(players.generator, optimiser, losses, batch, config, workers, name="generator")
    return Move(losses, resting, norm)


def discriminator_step(
    players: Players,
    optimiser: PlayerOptimiser,
    batch: Batch,
    proposals: Proposals,
    scores: Scores,
    config: Config,
    *,
    workers: Workers = ALONE,
) -> Move:
    """Move the discriminator; the generator and its proposals stay as they are.

    The scores may be those by which the generator moved before: they were made by the
    discriminator as it stands, and the candidates were drawn with the proposals' probabilities.
    """
    resting = proposals.detached()
    losses = target_loss(players, batch, resting, scores, config)
    _require_finite(losses, batch, resting, scores)
    norm = _move(
        players.discriminator, optimiser, losses, batch, config, workers, name="discriminator"
    )
    return Move(losses, scores.detached(), norm)


def _discriminator_loss(proposals: Proposals, scores: Scores, config: Config) -> Tensor:
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


def _gap(players: Players, batch: Batch, proposals: Proposals, config: Config) -> Tensor:
    """Return the mean of exp(-gap) over those of the batch's domains that are expanded."""
    distance = GAPS[config.train.gap]
    with torch.no_grad():  # they are the discriminator's, which rests
        pools = players.discriminator.scoring_layer.pools([group.items for group in batch.groups])
    distances = [
        distance(
            group.clicks,
            confidence.exp(),
            vectors,
            group.padding,
            None if group.sample is None else group.sample.log_inclusion,
        ).flatten()
        for group, confidence, (vectors, _) in zip(
            batch.groups, proposals.confidences, pools, strict=True
        )
    ]
    losses = gap_loss(torch.cat(distances))
    if proposals.expanded is not None:
        of_rows = batch.by_domain(proposals.expanded)
        losses = losses[torch.cat([rows[..., 0].flatten() for rows in of_rows])]
    return losses.mean()


def _move(
    player: nn.Module,
    optimiser: PlayerOptimiser,
    losses: TargetLoss,
    batch: Batch,
    config: Config,
    workers: Workers,
    *,
    name: str,
) -> Tensor:
    """Move a player, and return the norm of its gradient."""
    optimiser.zero_grad()
    losses.total.backward()  # type: ignore[no-untyped-call]
    workers.average_gradients(player, rows=batch.rows)
    norm = _clip(player, MOST_GRADIENT)
    if not bool(norm.isfinite()):  # as it may be where the loss is finite
        raise NonFiniteLossError(
            what=f"gradient of the {name}",
            value=float(norm),
            epoch=batch.epoch + 1,
            step=batch.step + 1,
            domain=", ".join(batch.domain_names.values()),
        )
    optimiser.step()
    return norm


@torch.no_grad()
def _clip(player: nn.Module, most: float) -> Tensor:
    """Scale a player's gradient down to a norm, and return the norm that it had."""
    values = []
    for parameter in player.parameters():
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad._values())
        elif parameter.grad is not None:
            values.append(parameter.grad)
    norm = nn.utils.get_total_norm(values)
    torch._foreach_mul_(values, (most / (norm + 1e-6)).clamp(max=1.0))
    return norm


def _require_finite(losses: TargetLoss, batch: Batch, proposals: Proposals, scores: Scores) -> None:
    """Stop before a loss that is not finite reaches the weights."""
    if bool(losses.total.isfinite()):
        return
    terms = {term.name: float(getattr(losses, term.name).detach()) for term in fields(losses)}
    name = next(name for name, value in terms.items() if not math.isfinite(value))
    raise NonFiniteLossError(
        what=f"{name} loss",
        value=terms[name],
        epoch=batch.epoch + 1,
        step=batch.step + 1,
        domain=_first_bad_domain(batch, proposals, scores),
    )


def _first_bad_domain(batch: Batch, proposals: Proposals, scores: Scores) -> str:
    """Return the first domain of the batch with a value that is not finite."""
    values = (
        scores.clicks,
        scores.candidates,
        proposals.click_log_confidence,
        proposals.candidate_log_confidence,
    )
    finite = torch.stack([value.isfinite().reshape(batch.rows, -1).all(1) for value in values])
    bad = batch.timelines.target_domains[~finite.all(0)].tolist()
    names = batch.domain_names
    return names[min(bad)] if bad else ", ".join(names.values())
