"""One step: both players read a batch, then each moves by the one target loss.

Dims: B clicks, K candidates per click.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from crossfeed.config import Config, TrainConfig
from crossfeed.errors import NonFiniteLossError
from crossfeed.model.candidates import Proposals, Scores
from crossfeed.model.discriminator import Discriminator
from crossfeed.model.gaps import GAPS
from crossfeed.model.losses import TargetLoss, target_loss
from crossfeed.model.players import Players
from crossfeed.training.parallel.distributed import ALONE, Workers
from crossfeed.training.step.batches import Batch
from crossfeed.training.step.optimiser import PlayerOptimiser
from crossfeed.training.step.pool import Pool, pools_of
from crossfeed.training.step.proposals import propose

__all__ = [
    "MOST_GRADIENT",
    "StepResult",
    "discriminator_step",
    "expanded_weight",
    "gaps_of",
    "generator_step",
    "score",
    "train_step",
]


MOST_GRADIENT = 5.0
"""Largest norm of a player's gradient in one step."""


@dataclass(frozen=True)
class StepResult:
    """The values of one step, without gradients."""

    proposals: Proposals
    scores: Scores
    gaps: Tensor | None
    """(n,) distance between clicks and candidates of each expanded domain, if it is measured."""
    losses: Mapping[str, Tensor]
    """Term of the target loss -> its value, of the players that moved."""
    gradient_norms: Mapping[str, Tensor]
    """Player that moved -> norm of its gradient before it was clipped."""


def train_step(
    players: Players,
    optimisers: Mapping[str, PlayerOptimiser],
    batch: Batch,
    *,
    config: Config,
    expanded: Sequence[bool],
    warming_up: bool = False,
    workers: Workers = ALONE,
) -> StepResult:
    """Move the generator, then the discriminator.

    Each player reads the batch once. The candidates are drawn before the generator moves, and the
    scores are made before the discriminator moves.

    Args:
        players: both; a training without a generator leaves it unchanged.
        optimisers: by player.
        batch: B clicks.
        config: all settings.
        expanded: by domain, true if the generator expands it.
        warming_up: whether the generator learns by likelihood alone, from static proposals.
        workers: the processes of the training.

    Raises:
        NonFiniteLossError: a loss or a gradient is infinite or not a number; at most the generator
            has moved.
    """
    generator = players.generator if config.has_generator else None
    if warming_up:
        config = _warmup(config)
    if any(optimiser.by_rows for optimiser in optimisers.values()):
        with record_function("rows caught up"):
            items = workers.union(batch.looked_up())
            for optimiser in optimisers.values():
                optimiser.catch_up(items)
    with record_function("generator forward"), _autocast(batch, config.train):
        proposals = propose(
            generator,
            batch,
            config=config.train,
            expanded=expanded,
        )
    with record_function("discriminator forward"), _autocast(batch, config.train):
        pools = pools_of(players.discriminator, batch)
        scores = score(players.discriminator, batch, pools, proposals, config.train)
    with record_function("target loss"):
        gaps = gaps_of(batch, pools, proposals, config.train)
        weight = expanded_weight(batch.rows, proposals, workers)
        losses = target_loss(proposals, scores, gaps, config, expanded_weight=weight)
        _require_finite(losses, batch, proposals, scores)
    norms = {}
    if generator is not None:
        with record_function("generator backward, step"):
            norms["generator"] = generator_step(
                players, optimisers["generator"], batch, losses, workers=workers
            )
    with record_function("discriminator backward, step"):
        norms["discriminator"] = discriminator_step(
            players, optimisers["discriminator"], batch, losses, workers=workers
        )
    return StepResult(
        proposals=proposals.detached(),
        scores=scores.detached(),
        gaps=None if gaps is None else gaps.detach(),
        losses=_detached(losses, alone=generator is None),
        gradient_norms=norms,
    )


def score(
    discriminator: Discriminator,
    batch: Batch,
    pools: Sequence[Pool],
    proposals: Proposals,
    config: TrainConfig,
) -> Scores:
    """Score the candidates (first score) and the clicks (second score) of a batch."""
    users = batch.by_domain(discriminator.users(batch.timelines))
    candidates = batch.by_domain(proposals.candidates)
    both, whole = [], []
    for pool, rows, drawn in zip(pools, users, candidates, strict=True):
        places = torch.cat([drawn, pool.group.clicks.unsqueeze(-1)], -1)
        if config.objective == "full-softmax":
            values = pool.values(rows)  # (..., b, N)
            whole.append(pool.group.as_masses(values).logsumexp(dim=-1))
            both.append(values.gather(-1, places).float())
        else:
            both.append(pool.values_at(rows, places).float())
    first_and_second = batch.together(both)  # (B, K + 1)
    return Scores(
        candidates=first_and_second[:, :-1],
        clicks=first_and_second[:, -1],
        pool=batch.together(whole) if whole else None,
    )


def gaps_of(
    batch: Batch, pools: Sequence[Pool], proposals: Proposals, config: TrainConfig
) -> Tensor | None:
    """Return (n,) the distance between clicks and candidates of each expanded domain.

    None if the batch's target loss has no L3.
    """
    wanted = config.gap != "none" and config.gap_weight > 0
    if not (wanted and proposals.confidences and proposals.expands_any):
        return None
    distance = GAPS[config.gap]
    distances = [
        distance(
            pool.group.clicks,
            confidence.exp(),
            pool.vectors,
            pool.group.padding,
            None if pool.group.sample is None else pool.group.sample.log_inclusion,
        ).flatten()
        for pool, confidence in zip(pools, proposals.confidences, strict=True)
    ]
    gaps = torch.cat(distances)
    if proposals.expanded is None:
        return gaps
    of_rows = batch.by_domain(proposals.expanded)
    return gaps[torch.cat([rows[..., 0].flatten() for rows in of_rows])]


def generator_step(
    players: Players,
    optimiser: PlayerOptimiser,
    batch: Batch,
    losses: TargetLoss,
    *,
    workers: Workers = ALONE,
) -> Tensor:
    """Move the generator by the terms that have its gradient, and return the gradient's norm."""
    loss = losses.generator + losses.anchor + losses.gap
    return _move(players.generator, optimiser, batch, loss, workers, name="generator")


def discriminator_step(
    players: Players,
    optimiser: PlayerOptimiser,
    batch: Batch,
    losses: TargetLoss,
    *,
    workers: Workers = ALONE,
) -> Tensor:
    """Move the discriminator by the term that has its gradient, and return the gradient's norm."""
    loss, player = losses.discriminator, players.discriminator
    return _move(player, optimiser, batch, loss, workers, name="discriminator")


def _warmup(config: Config) -> Config:
    """Return the settings of warm-up: static proposals, and likelihood alone for the generator."""
    train = config.train.model_copy(
        update={"proposal_share": 0.0, "reward_weight": 0.0, "gap_weight": 0.0}
    )
    return config.model_copy(update={"train": train})


def _autocast(batch: Batch, config: TrainConfig) -> AbstractContextManager[object]:
    """Return the context of the players' forward passes, in `train.precision`."""
    if config.precision == "float32":
        return nullcontext()
    return torch.autocast(batch.device.type, torch.bfloat16)


def expanded_weight(rows: int, proposals: Proposals, workers: Workers) -> float:
    """Return the factor from a mean over this process's expanded rows to the mean over all.

    Gradients are averaged by all rows of each process, expanded or not.
    """
    if workers.count == 1 or proposals.expanded is None:
        return 1.0
    expanded = int(proposals.expanded.sum())
    all_expanded, all_rows = workers.totals(expanded, rows)
    return expanded / max(all_expanded, 1) * all_rows / rows


def _detached(losses: TargetLoss, *, alone: bool) -> dict[str, Tensor]:
    """Return the terms by name; without a generator only the discriminator's."""
    names = [term.name for term in fields(losses)]
    return {
        name: getattr(losses, name).detach() for name in (["discriminator"] if alone else names)
    }


def _move(
    player: nn.Module,
    optimiser: PlayerOptimiser,
    batch: Batch,
    loss: Tensor,
    workers: Workers,
    *,
    name: str,
) -> Tensor:
    """Move a player, and return the norm of its gradient."""
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    workers.average_gradients(player, rows=batch.rows)
    norm = _clip(player, MOST_GRADIENT)
    if not bool(norm.isfinite()):  # possible even if the loss is finite
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
