"""Proposals: the distribution q that candidates are drawn from, and the draws.

q = share . g + (1 - share) . static, over the row's pool: the domain's items minus the user's
history, the click always in it. Draws are independent and with replacement; duplicates and hits
of the click stay, because the correction -log q counts on them.

With `train.static_proposal = "batch"` the static part of a draw is a click of the batch's other
rows (Yi et al. 2019). What these are changes from batch to batch; q is the probability over all
batches, an item's share of the domain's training clicks.

Dims: B clicks, b clicks of one domain, K candidates per click, N items of a pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.profiler import record_function

from crossfeed.config import TrainConfig
from crossfeed.data.dataset import Dataset
from crossfeed.errors import NonFiniteLossError
from crossfeed.model.generator import Generator
from crossfeed.model.items.layer import values_of
from crossfeed.training.step.batches import Batch
from crossfeed.training.step.domain_rows import RowsOfDomains
from crossfeed.training.step.pools import static_weights

__all__ = ["Proposals", "StaticProposals", "propose"]


@dataclass(frozen=True)
class Proposals:
    """The generator's view of a batch and the candidates drawn from the proposal."""

    confidences: tuple[Tensor, ...]
    """Log-confidence (..., b, N) of the rows of each of the batch's groups, of a sampled pool
    log(g / pi); none where the generator rests, because only its own phase needs them."""
    candidates: Tensor
    """(B, K) position of each candidate in the pool of its row's domain."""
    candidate_log_confidence: Tensor
    """(B, K) log g of each candidate."""
    click_log_confidence: Tensor
    """(B,) log g of each click."""
    candidate_log_proposal: Tensor
    """(B, K) log q of each candidate; has no gradient."""
    click_log_proposal: Tensor
    """(B,) log q of each click; has no gradient."""
    expanded: Tensor | None
    """(B,) whether the generator expands the row's domain; None where it expands all."""

    @property
    def expands_any(self) -> bool:
        """Return whether the generator expands a domain of the batch."""
        return self.expanded is None or bool(self.expanded.any())

    def detached(self) -> Proposals:
        """Return the same without gradients, for the phase in which the generator rests."""
        return replace(
            self,
            confidences=(),
            candidate_log_confidence=self.candidate_log_confidence.detach(),
            click_log_confidence=self.click_log_confidence.detach(),
        )


class StaticProposals:
    """The part of the proposal that does not learn, per domain."""

    def __init__(self, dataset: Dataset, config: TrainConfig) -> None:
        self._weights = torch.from_numpy(static_weights(dataset.item_clicks, config)).float()

    def to(self, device: torch.device) -> StaticProposals:
        """Move the tables to another device."""
        self._weights = self._weights.to(device)
        return self

    def weights(self, group: RowsOfDomains) -> Tensor:
        """Return (..., N) unnormalised weights of the pool's items."""
        return self._weights[group.items]


def propose(
    generator: Generator | None,
    batch: Batch,
    *,
    static: StaticProposals,
    config: TrainConfig,
    expanded: Sequence[bool],
    share: float,
) -> Proposals:
    """Let the generator look at a batch and draw candidates.

    Args:
        generator: the player; gradients flow to it through the confidences. Without one all
            proposals are static and confidences count as 1.
        batch: B clicks.
        static: the part of the proposal that does not learn.
        config: `candidates` is K.
        expanded: by domain, whether the generator takes part in its proposal.
        share: the generator's share of q in those domains; 0 during warm-up.

    Raises:
        NonFiniteLossError: a confidence is not a number, so that nothing can be drawn by it.
    """
    confidences = [] if generator is None else _log_confidences(generator, batch)
    if confidences:
        _require_finite(batch, confidences)
    of_rows: Tensor | None = None
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
                static.weights(group),
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
    """Return by group (..., b, N) the log of the generator's confidence; -inf for what was seen.

    Of a sampled pool it is log(g / pi), by which sums over the sample are those over the pool.
    """
    pools = generator.output_layer.pools([group.items for group in batch.groups])
    users = batch.by_domain(generator.users(batch.timelines, batch.times))
    return [
        group.as_masses(values_of(rows, vectors, biases)).log_softmax(dim=-1)
        for group, rows, (vectors, biases) in zip(batch.groups, users, pools, strict=True)
    ]


def _require_finite(batch: Batch, confidences: Sequence[Tensor]) -> None:
    """Stop where the anchor's loss cannot be finite.

    One score that is inf or NaN makes all confidences of its row NaN, also that of the click.
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
    group: RowsOfDomains,
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


def _static(group: RowsOfDomains, weights: Tensor) -> Tensor:
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


def _of_other_rows(group: RowsOfDomains, static: Tensor) -> Tensor:
    """Return (..., b, N) how the clicks of each row's other rows are spread over its pool.

    They are not divided by pi: they are draws by the shares of clicks, in a sample too. A row to
    which the others leave nothing has the static part itself, (..., b, N).
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
