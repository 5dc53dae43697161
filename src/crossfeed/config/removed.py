"""Settings of version 0.1 that no measurement ever changed; each is a constant now.

Runs and checkpoints of 0.1 name them. They are accepted with the constant's value.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["REMOVED", "without_removed"]

REMOVED: Mapping[str, object] = {
    "train.anchor_weight": 1.0,
    "train.compile": False,
    "train.discriminator_steps": 1,
    "train.gap_scale": 1.0,
    "train.gradient_clip": 5.0,
    "train.select_on": "micro ndcg@10",
    "train.table_learning_rate": 0.1,
}
"""section.key -> its constant value."""


def without_removed(tree: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """Return nested settings without the removed ones, and the problems of these."""
    kept, problems = dict(tree), []
    for name, value in REMOVED.items():
        section, _, key = name.partition(".")
        values = kept.get(section)
        if not isinstance(values, Mapping) or key not in values:
            continue
        kept[section] = {other: given for other, given in values.items() if other != key}
        if values[key] != value:
            problems.append(
                f"{name} = {values[key]!r}: this setting was removed, its value is always {value!r}"
            )
    return kept, problems
