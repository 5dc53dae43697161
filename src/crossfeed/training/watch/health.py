"""The health of an adversarial training: figures that show a collapse before the losses do.

Dims: B clicks, b clicks of one domain, K candidates per click, N items of a pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from crossfeed.model.candidates import Proposals
from crossfeed.model.losses import gap_loss
from crossfeed.training.step.batches import Batch
from crossfeed.training.step.means import Means
from crossfeed.training.step.pool_groups import PoolGroup
from crossfeed.training.step.steps import StepResult

__all__ = ["Health", "add_health"]

_ENTROPY, _GRADIENT = "entropy ", "gradient "
"""Prefixes of the names of means: one mean per domain, and one per player."""
_SMALLEST = 1e-300
"""Smallest gap loss that counts; below it, the logarithm is undefined."""
_ROWS = 64
"""Clicks per domain that estimate a batch's entropy; more cost time without a better estimate."""


@dataclass(frozen=True)
class Health:
    """One epoch's figures of both players; None if not measured."""

    separation: float | None
    """Share of pairs of a click and one of its candidates in which the click scores higher, ties
    half: 0.5 if the discriminator cannot tell them apart, 1 if it always can."""
    distinct_share: float | None
    """Distinct candidates of a domain's batch, divided by the largest possible number; (0, 1]."""
    entropy: Mapping[str, float]
    """Domain -> entropy of the generator's confidence over a user's pool, divided by its maximum
    log N: 1 if all items are equal, 0 if one item has all confidence."""
    reward_mean: float | None
    """Mean over candidates of score minus log-confidence, which the generator raises."""
    reward_variance: float | None
    gap: float | None
    """The distance between clicks and candidates (`train.gap`), mean over batches; over the domains
    of a batch it is -log mean exp(-distance)."""
    gradient_norms: Mapping[str, float]
    """Player -> mean norm of its gradient before it is clipped."""

    @classmethod
    def of(cls, means: Means) -> Health:
        """Return the health of an epoch from the means that `add_health` filled."""
        found = means.means()
        mean, square = found.get("reward mean"), found.get("reward square")
        return cls(
            separation=found.get("separation"),
            distinct_share=found.get("distinct share"),
            entropy=means.means(_ENTROPY),
            reward_mean=mean,
            reward_variance=None if mean is None or square is None else square - mean**2,
            gap=found.get("gap"),
            gradient_norms=means.means(_GRADIENT),
        )

    def to_json(self) -> dict[str, object]:
        """Return a line of health.jsonl, without the number of the epoch."""
        return asdict(self)


def add_health(means: Means, batch: Batch, result: StepResult) -> None:
    """Add the health of both players in a step to the means of its epoch."""
    proposals, scores = result.proposals, result.scores
    first, second = scores.candidates, scores.clicks.unsqueeze(1)
    above = (second > first).float() + 0.5 * (second == first).float()  # (B, K)
    means.add("separation", above.mean())
    means.add("distinct share", _distinct_share(batch, proposals))
    for player, norm in result.gradient_norms.items():
        means.add(f"{_GRADIENT}{player}", norm)
    if "generator" not in result.gradient_norms:
        return
    for group, confidence in zip(batch.groups, proposals.confidences, strict=True):
        means.add_all([f"{_ENTROPY}{name}" for name in group.names], _entropy(group, confidence))
    rewards = scores.candidates - proposals.candidate_log_confidence  # (B, K)
    means.add("reward mean", rewards.mean())
    means.add("reward square", rewards.square().mean())
    if result.gaps is not None:
        share = gap_loss(result.gaps.double()).mean()
        means.add("gap", -share.clamp_min(_SMALLEST).log())


def _distinct_share(batch: Batch, proposals: Proposals) -> Tensor:
    """Return the mean over the batch's domains."""
    candidates = batch.by_domain(proposals.candidates)
    shares = [_distinct(*each) for each in zip(batch.groups, candidates, strict=True)]
    return torch.cat(shares).mean()


def _distinct(group: PoolGroup, candidates: Tensor) -> Tensor:
    """Return (n,) the share of each domain's candidates (..., b, K)."""
    drawn = candidates.new_zeros(*candidates.shape[:-2], group.size)
    drawn = drawn.scatter_(-1, candidates.flatten(-2), 1).sum(-1)
    return (drawn.double() / group.most_distinct(candidates.shape[-1])).reshape(-1)


def _entropy(group: PoolGroup, log_masses: Tensor) -> Tensor:
    """Return (n,) each domain's mean over some rows (..., b, N) of entropy by its maximum.

    In a sampled pool the masses are g / pi, so that sums over the sample estimate sums over the
    pool. The logarithm is of g, and the maximum is the entropy of equal shares of all items. Rows
    with one item count as 1.
    """
    log_masses = log_masses[..., :_ROWS, :]
    log_confidence = log_masses
    if group.sample is not None:
        log_confidence = log_masses + group.sample.log_inclusion.unsqueeze(-2)
        own = group.clicks[..., :_ROWS].unsqueeze(-1)
        log_confidence = log_confidence.scatter(-1, own, log_masses.gather(-1, own))
    inside = log_masses > -torch.inf
    terms = torch.where(inside, log_masses.exp() * log_confidence, 0.0)
    sizes = inside.sum(dim=-1) + group.left_out.to(log_masses.device).unsqueeze(-1)
    most = sizes.clamp_min(2).float().log()
    shares = torch.where(sizes > 1, -terms.sum(dim=-1) / most, 1.0)  # (..., b)
    if group.padding is None:
        return shares.mean(dim=-1, keepdim=True)
    weights = group.padding.rows[..., :_ROWS]
    return (shares * weights).sum(-1) / weights.sum(-1)
