"""The health of an adversarial training: what tells a collapse before the losses do.

Dims: B clicks, b clicks of one domain, K candidates per click, N items of a pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from crossfeed.config import TrainConfig
from crossfeed.training.step.batches import Batch
from crossfeed.training.step.device_copies import Later
from crossfeed.training.step.domain_rows import RowsOfDomains
from crossfeed.training.step.proposals import Proposals
from crossfeed.training.step.steps import Move, has_gap

__all__ = ["Health", "HealthSums"]

_SMALLEST = 1e-300
"""Smallest gap loss that counts; below it, the logarithm is undefined."""
_ROWS = 64
"""Clicks per domain that estimate a batch's entropy; more cost time without a better estimate."""


@dataclass(frozen=True)
class Health:
    """One epoch's figures of both players; None if not measured."""

    separation: float | None
    """Share of pairs of a click and one of its candidates in which the click scores higher, ties
    half: 0.5 where the discriminator cannot tell them apart, 1 where it always does."""
    distinct_share: float | None
    """Different candidates of a domain's batch, of as many as there could be, in (0, 1]."""
    entropy: Mapping[str, float]
    """Domain -> entropy of the generator's confidence over a user's pool, of its maximum log N:
    1 for all items alike, 0 for one item alone."""
    reward_mean: float | None
    """Mean over candidates of score minus log-confidence, which the generator raises."""
    reward_variance: float | None
    gap: float | None
    """The distance between clicks and candidates (`train.gap`), mean over batches; over the domains
    of a batch it is -log mean exp(-distance)."""
    gradient_norms: Mapping[str, float]
    """Player -> mean norm of its gradient before it is clipped."""

    def to_json(self) -> dict[str, object]:
        """Return a line of health.jsonl, without the number of the epoch."""
        return asdict(self)


class HealthSums:
    """Sums over the steps of an epoch, in dictionaries that a checkpoint can hold."""

    def __init__(self, sums: dict[str, float], counts: dict[str, int]) -> None:
        self.sums, self.counts = sums, counts
        self._later = Later(self._take)

    def add_discriminator(self, batch: Batch, proposals: Proposals, move: Move) -> None:
        """Count a step of the discriminator."""
        first, second = move.scores.candidates, move.scores.clicks.unsqueeze(1)
        above = (second > first).float() + 0.5 * (second == first).float()  # (B, K)
        self._add("separation", above.mean())
        self._add("distinct share", _distinct_share(batch, proposals))
        self._add("gradient discriminator", move.gradient_norm)

    def add_generator(
        self, batch: Batch, proposals: Proposals, move: Move, *, config: TrainConfig
    ) -> None:
        """Count a step of the generator."""
        for group, confidence in zip(batch.groups, proposals.confidences, strict=True):
            names = [f"entropy {name}" for name in group.names]
            self._later.add_all(names, _entropy(group, confidence.detach()))
        rewards = move.scores.candidates - proposals.candidate_log_confidence.detach()  # (B, K)
        self._add("reward mean", rewards.mean())
        self._add("reward square", rewards.square().mean())
        self._add("gradient generator", move.gradient_norm)
        if has_gap(proposals, config):
            share = move.losses.gap.detach().double() / config.gap_weight  # exp(-gap)
            self._add("gap", -share.clamp_min(_SMALLEST).log())

    def settle(self) -> None:
        """Bring `sums` and `counts` up to date: counting leaves the figures on the device."""
        self._later.settle()

    def mean(self) -> Health:
        """Return the means over what was counted."""
        self.settle()
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        mean, square = means.get("reward mean"), means.get("reward square")
        return Health(
            separation=means.get("separation"),
            distinct_share=means.get("distinct share"),
            entropy=_under("entropy ", means),
            reward_mean=mean,
            reward_variance=None if mean is None or square is None else square - mean**2,
            gap=means.get("gap"),
            gradient_norms=_under("gradient ", means),
        )

    def clear(self) -> None:
        """Begin a new epoch."""
        self.sums.clear()
        self.counts.clear()

    def _add(self, name: str, value: Tensor) -> None:
        self._later.add(name, value)

    def _take(self, name: str, value: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value
        self.counts[name] = self.counts.get(name, 0) + 1


def _under(prefix: str, means: Mapping[str, float]) -> dict[str, float]:
    return {
        name.removeprefix(prefix): mean for name, mean in means.items() if name.startswith(prefix)
    }


def _distinct_share(batch: Batch, proposals: Proposals) -> Tensor:
    """Return the mean over the batch's domains."""
    candidates = batch.by_domain(proposals.candidates)
    shares = [_distinct(*each) for each in zip(batch.groups, candidates, strict=True)]
    return torch.cat(shares).mean()


def _distinct(group: RowsOfDomains, candidates: Tensor) -> Tensor:
    """Return (n,) the share of each domain's candidates (..., b, K)."""
    drawn = candidates.new_zeros(*candidates.shape[:-2], group.size)
    drawn = drawn.scatter_(-1, candidates.flatten(-2), 1).sum(-1)
    return (drawn.double() / group.most_distinct(candidates.shape[-1])).reshape(-1)


def _entropy(group: RowsOfDomains, log_confidence: Tensor) -> Tensor:
    """Return (n,) each domain's mean over some rows (..., b, N) of entropy by its maximum.

    Rows of one item count as 1.
    """
    log_confidence = log_confidence[..., :_ROWS, :]
    inside = log_confidence > -torch.inf
    terms = torch.where(inside, log_confidence.exp() * log_confidence, 0.0)
    sizes = inside.sum(dim=-1)
    most = sizes.clamp_min(2).float().log()
    shares = torch.where(sizes > 1, -terms.sum(dim=-1) / most, 1.0)  # (..., b)
    if group.padding is None:
        return shares.mean(dim=-1, keepdim=True)
    weights = group.padding.rows[..., :_ROWS]
    return (shares * weights).sum(-1) / weights.sum(-1)
