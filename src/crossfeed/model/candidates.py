"""The candidates of a batch: how they were proposed, and how the discriminator scores them.

Dims: B clicks, b clicks of one group of rows, K candidates per click, N items of a pool.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

__all__ = ["Proposals", "Scores"]


@dataclass(frozen=True)
class Proposals:
    """The generator's view of a batch and the candidates drawn from the proposal."""

    confidences: tuple[Tensor, ...]
    """Log-confidence (..., b, N) of each group's rows, log(g / pi) in a sampled pool; empty without
    a generator."""
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
    """(B,) true if the generator expands the row's domain; None if it expands all."""

    @property
    def expands_any(self) -> bool:
        """Return whether the generator expands a domain of the batch."""
        return self.expanded is None or bool(self.expanded.any())

    def detached(self) -> Proposals:
        """Return the same without gradients."""
        return replace(
            self,
            confidences=tuple(one.detach() for one in self.confidences),
            candidate_log_confidence=self.candidate_log_confidence.detach(),
            click_log_confidence=self.click_log_confidence.detach(),
        )


@dataclass(frozen=True)
class Scores:
    """The discriminator's scores of a batch (claim 6)."""

    candidates: Tensor
    """(B, K) first score."""
    clicks: Tensor
    """(B,) second score."""
    pool: Tensor | None
    """(B,) log of the summed exp(score) over the row's whole pool, if the objective needs it."""

    def detached(self) -> Scores:
        """Return the same without gradients."""
        pool = None if self.pool is None else self.pool.detach()
        return Scores(self.candidates.detach(), self.clicks.detach(), pool)
