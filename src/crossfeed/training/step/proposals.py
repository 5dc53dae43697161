"""Proposals: the distribution q that candidates are drawn from, and the draws.

q = share . g + (1 - share) . static, over the row's pool: the domain's items that existed before
its window, minus the user's history; the click is always in it. The static part goes by the clicks
before the window. Draws are independent and with replacement. Duplicates and hits of the click
stay, because the correction -log q relies on them.

Dims: B clicks, b clicks of one domain, K candidates per click, N items of a pool.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.profiler import record_function

from crossfeed.config import TrainConfig
from crossfeed.errors import NonFiniteLossError
from crossfeed.model.candidates import Proposals
from crossfeed.model.generator import Generator
from crossfeed.training.step.batches import Batch
from crossfeed.training.step.pool import pools_of
from crossfeed.training.step.pool_groups import PoolGroup

__all__ = ["propose"]


def propose(
    generator: Generator | None,
    batch: Batch,
    *,
    config: TrainConfig,
    expanded: Sequence[bool],
) -> Proposals:
    """Let the generator look at a batch and draw candidates.

    Args:
        generator: the player; gradients flow to it through the confidences. Without one all
            proposals are static and confidences count as 1.
        batch: B clicks.
        config: `candidates` is K, `proposal_share` the generator's share of q in expanded domains.
        expanded: by domain, true if the generator takes part in its proposal.

    Raises:
        NonFiniteLossError: a confidence is not a number.
    """
    confidences = [] if generator is None else _log_confidences(generator, batch)
    if confidences:
        _require_finite(batch, confidences)
    of_rows: Tensor | None = None
    share = config.proposal_share
    shares: Sequence[float | Tensor] = [share] * len(batch.groups)
    if generator is None or not all(expanded):
        expands = torch.tensor([generator is not None and domain for domain in expanded])
        targets = batch.timelines.target_domains
        of_rows = expands.to(targets.device)[targets]
        shares = [rows.unsqueeze(-1) for rows in batch.by_domain(of_rows * share)]
    with record_function("draws"):
        drawn = [
            _draw(
                group,
                confidences[place] if confidences else None,
                share=shares[place],
                count=config.candidates,
            )
            for place, group in enumerate(batch.groups)
        ]
    candidates, confidence, click_confidence, proposal, click_proposal = (
        batch.together(column) for column in zip(*drawn, strict=True)
    )
    return Proposals(
        confidences=tuple(confidences),
        candidates=candidates,
        candidate_log_confidence=confidence,
        click_log_confidence=click_confidence,
        candidate_log_proposal=proposal,
        click_log_proposal=click_proposal,
        expanded=of_rows,
    )


def _log_confidences(generator: Generator, batch: Batch) -> list[Tensor]:
    """Return by group (..., b, N) the log of the generator's confidence; -inf for seen items.

    In a sampled pool it is log(g / pi): sums over the sample are then sums over the pool.
    """
    pools = pools_of(generator, batch)
    users = batch.by_domain(generator.users(batch.timelines))
    return [
        pool.group.as_masses(pool.values(rows)).log_softmax(dim=-1)
        for pool, rows in zip(pools, users, strict=True)
    ]


def _require_finite(batch: Batch, confidences: Sequence[Tensor]) -> None:
    """Stop before the anchor's loss is infinite or NaN.

    One score that is inf or NaN makes all confidences of its row NaN, the click's included.
    """
    of_clicks = batch.together(
        [
            confidence.detach().gather(-1, group.clicks.unsqueeze(-1)).squeeze(-1)
            for group, confidence in zip(batch.groups, confidences, strict=True)
        ]
    )  # (B,)
    finite = of_clicks.isfinite()
    if bool(finite.all()):
        return
    raise NonFiniteLossError(
        what="anchor loss",
        value=-float(of_clicks.mean()),
        epoch=batch.epoch + 1,
        step=batch.step + 1,
        domain=batch.domain_names[int(batch.timelines.target_domains[~finite].min())],
    )


def _draw(
    group: PoolGroup,
    confidence: Tensor | None,
    *,
    share: float | Tensor,
    count: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return candidates (..., b, K), log g of candidates and clicks, log q of both."""
    mixed = _static(group)  # (..., b, N)
    if confidence is not None and (isinstance(share, Tensor) or share):
        mixed = mixed.lerp_(confidence.detach().exp(), share)
    candidates = torch.multinomial(mixed.flatten(0, -2), count, replacement=True)
    candidates = candidates.view(*mixed.shape[:-1], count)
    places = torch.cat([candidates, group.clicks.unsqueeze(-1)], dim=-1)  # (..., b, K + 1)
    inclusion = group.log_inclusion(places)
    log_proposal = mixed.gather(-1, places).log() + inclusion
    log_confidence = (
        torch.zeros_like(log_proposal)
        if confidence is None
        else confidence.gather(-1, places) + inclusion
    )
    return (
        candidates,
        log_confidence[..., :-1],
        log_confidence[..., -1],
        log_proposal[..., :-1],
        log_proposal[..., -1],
    )


def _static(group: PoolGroup) -> Tensor:
    """Return (..., b, N) the static part of the proposal, normalised over each row's pool."""
    weights = group.static  # (..., W, N)
    own = group.of_windows(weights).gather(-1, group.clicks.unsqueeze(-1))  # (..., b, 1)
    if group.sample is not None:
        weights = weights * torch.exp(-group.sample.log_inclusion).unsqueeze(-2)
    static = group.of_windows(weights)
    # A row's own click is always in its pool.
    static = static.scatter(-1, group.clicks.unsqueeze(-1), own)
    static[group.seen] = 0.0
    return static.div_(static.sum(-1, keepdim=True))
