"""Proposals: the distribution q that candidates are drawn from, and the draws.

q = share . g + (1 - share) . static, over the row's pool: the domain's items minus the user's
history; the click is always in it. Draws are independent and with replacement. Duplicates and hits
of the click stay, because the correction -log q relies on them.

With `train.static_proposal = "batch"` the static part of a draw is a click of the batch's other
rows (Yi et al. 2019). These rows change from batch to batch; q is the probability over all
batches, an item's share of the domain's training clicks.

Dims: B clicks, b clicks of one domain, K candidates per click, N items of a pool.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.profiler import record_function

from crossfeed.config import TrainConfig
from crossfeed.data.dataset import Dataset
from crossfeed.errors import NonFiniteLossError
from crossfeed.model.candidates import Proposals
from crossfeed.model.generator import Generator
from crossfeed.training.step.batches import Batch
from crossfeed.training.step.pool import pools_of
from crossfeed.training.step.pool_groups import PoolGroup
from crossfeed.training.step.pool_sampling import static_weights

__all__ = ["propose", "static_proposals"]


def static_proposals(dataset: Dataset, config: TrainConfig) -> Tensor:
    """Return (I,) the items' weights in the part of the proposal that does not learn."""
    return torch.from_numpy(static_weights(dataset.item_clicks, config)).float()


def propose(
    generator: Generator | None,
    batch: Batch,
    *,
    static: Tensor,
    config: TrainConfig,
    expanded: Sequence[bool],
) -> Proposals:
    """Let the generator look at a batch and draw candidates.

    Args:
        generator: the player; gradients flow to it through the confidences. Without one all
            proposals are static and confidences count as 1.
        batch: B clicks.
        static: (I,) the result of `static_proposals`.
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
                static[group.items],
                share=shares[place],
                count=config.candidates,
                of_batch=config.static_proposal == "batch",
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
    pools = pools_of(generator.output_layer, batch)
    users = batch.by_domain(generator.users(batch.timelines, batch.times))
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
    weights: Tensor,
    *,
    share: float | Tensor,
    count: int,
    of_batch: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return candidates (..., b, K), log g of candidates and clicks, log q of both."""
    mixed = drawn = _static(group, weights)  # (..., b, N)
    if of_batch:
        drawn = _of_other_rows(group, mixed)
    if confidence is not None and (isinstance(share, Tensor) or share):
        confidences = confidence.detach().exp()
        mixed = mixed.lerp_(confidences, share)
        drawn = drawn.lerp_(confidences, share) if of_batch else mixed
    candidates = torch.multinomial(drawn.flatten(0, -2), count, replacement=True)
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


def _static(group: PoolGroup, weights: Tensor) -> Tensor:
    """Return (..., b, N) the static part of the proposal, normalised over each row's pool."""
    own = group.of_pool(weights, group.clicks).double()
    if group.sample is not None:
        weights = weights * torch.exp(-group.sample.log_inclusion)
    # A row's own click is always in its pool.
    taken = group.of_pool(weights, group.clicks).double() - own
    *of_stack, rows, places = group.seen
    taken.index_put_((*of_stack, rows), weights[(*of_stack, places)].double(), accumulate=True)
    # No pass over (b, N), and exact enough to subtract.
    left = weights.double().sum(-1, keepdim=True) - taken
    static = left.reciprocal().to(weights).unsqueeze(-1) * weights.unsqueeze(-2)
    if group.sample is not None:
        static.scatter_(-1, group.clicks.unsqueeze(-1), (own / left).to(static).unsqueeze(-1))
    static[group.seen] = 0.0
    return static


def _of_other_rows(group: PoolGroup, static: Tensor) -> Tensor:
    """Return (..., b, N) the distribution of the other rows' clicks over each row's pool.

    It is not divided by pi: in a sample, too, these are draws by the shares of clicks. A row
    without other clicks in its pool gets the static part (..., b, N).
    """
    counts = static.new_zeros(*group.clicks.shape[:-1], group.size)
    counted = static.new_ones(()) if group.padding is None else group.padding.rows > 0
    counts.scatter_add_(-1, group.clicks, counted.to(counts).expand_as(group.clicks))
    others = counts.unsqueeze(-2).expand_as(static).clone()
    own = group.clicks.unsqueeze(-1)
    others.scatter_add_(-1, own, -torch.ones_like(own).to(others))
    others[group.seen] = 0.0
    left = others.sum(-1, keepdim=True)
    return torch.where(left > 0, others / left, static)
