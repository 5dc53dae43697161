"""Alarms that tell a collapsed training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from crossfeed.training.watch.health import Health

__all__ = ["Alarm", "find_alarms"]

LEAST_ENTROPY = 0.02
"""Below it the generator proposes a few items to everybody."""
LEAST_SEPARATION = 0.51
"""Below it the discriminator guesses."""


@dataclass(frozen=True)
class Alarm:
    """A sign of collapse."""

    name: str
    """entropy, separation or validation."""
    cause: str
    """The observation in words."""


def find_alarms(
    health: Health, *, metric: str, value: float | None, floor: float | None
) -> tuple[Alarm, ...]:
    """Return the alarms of one epoch after warm-up; none of a healthy one.

    Args:
        health: what the epoch said of both players.
        metric: the figure that chooses epochs, such as micro ndcg@10.
        value: that figure on the validation part, if there is one.
        floor: the same figure of popularity.
    """
    return tuple(_alarms(health, metric, value, floor))


def _alarms(
    health: Health, metric: str, value: float | None, floor: float | None
) -> Iterator[Alarm]:
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
    if value is not None and floor is not None and value < floor:
        yield Alarm(
            "validation",
            f"the score ranks worse than popularity: validation {metric} {value:.4f}, "
            f"popularity {floor:.4f}",
        )
