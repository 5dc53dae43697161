"""The signs of a collapsed training, and what to do about each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from crossfeed.training.watch.health import Health

__all__ = ["ADVICE", "Alarm", "find_alarms"]

LEAST_ENTROPY = 0.02
"""Below it the generator proposes a few items to everybody."""
LEAST_SEPARATION = 0.51
"""Below it the discriminator guesses."""

ADVICE: Mapping[str, str] = {
    "entropy": "lower train.reward_weight or train.learning_rate, so that real clicks weigh more",
    "separation": "leave train.correction at 1 and train.objective at softmax, or lower "
    "train.proposal_share",
    "validation": "lower train.learning_rate; if it happens in the first epochs, raise "
    "train.warmup_epochs",
}
"""Name of an alarm -> what to do."""


@dataclass(frozen=True)
class Alarm:
    """A sign of collapse."""

    name: str
    """entropy, separation or validation."""
    cause: str
    """The figures that raised it, in words."""

    @property
    def advice(self) -> str:
        """Return what to do about it."""
        return ADVICE[self.name]


def find_alarms(
    health: Health, *, metric: str, value: float, best: float, floor: float
) -> tuple[Alarm, ...]:
    """Return the alarms of one epoch after warm-up.

    An epoch that validates better than all before it has not collapsed, whatever its other
    figures: good candidates are hard to tell from clicks, and first epochs are weak.

    Args:
        health: the epoch's figures of both players.
        metric: the figure that chooses epochs, such as micro ndcg@10.
        value: that figure on the validation part.
        best: the best such figure before this epoch.
        floor: the same figure of popularity.
    """
    return () if value > best else tuple(_alarms(health, metric, value, floor))


def _alarms(health: Health, metric: str, value: float, floor: float) -> Iterator[Alarm]:
    collapsed = {name: one for name, one in health.entropy.items() if one < LEAST_ENTROPY}
    if collapsed:
        name = min(collapsed, key=collapsed.__getitem__)
        yield Alarm(
            "entropy",
            f"the generator proposes few items, in {len(collapsed)} of {len(health.entropy)} "
            f"domains: entropy {collapsed[name]:.3f} of 1 in '{name}'",
        )
    if health.separation is not None and health.separation < LEAST_SEPARATION:
        yield Alarm(
            "separation",
            "the discriminator cannot tell clicks from candidates: "
            f"{health.separation:.1%} of the pairs are in order",
        )
    if value < floor:
        yield Alarm(
            "validation",
            f"the score ranks worse than popularity: validation {metric} {value:.4f}, "
            f"popularity {floor:.4f}",
        )
