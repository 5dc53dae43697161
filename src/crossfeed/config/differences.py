"""Settings by name, and the differences between two configurations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from crossfeed.config.sections import Config

__all__ = ["RUNNING", "Difference", "differences", "flat"]

RUNNING = ("train.device", "train.checkpoint_minutes", "train.track")
"""Settings that say where and how a training runs, and do not change its result."""


@dataclass(frozen=True)
class Difference:
    """A setting with different values in two configurations."""

    name: str
    """section.key"""
    here: object
    there: object


def differences(here: Config, there: Config, *, only_given: bool = False) -> Iterator[Difference]:
    """Yield the settings in which two configurations differ, with values as in JSON.

    Args:
        here: one configuration.
        there: another.
        only_given: leave out settings that have their default in `here`.
    """
    for section in type(here).model_fields:
        own, other = getattr(here, section), getattr(there, section)
        names = own.model_fields_set if only_given else type(own).model_fields
        values, others = own.model_dump(mode="json"), other.model_dump(mode="json")
        for key in values:
            if key in names and values[key] != others[key]:
                yield Difference(f"{section}.{key}", values[key], others[key])


def flat(config: Config) -> dict[str, str]:
    """Return every setting, section.key -> its value in JSON."""
    return {
        f"{section}.{key}": json.dumps(value, ensure_ascii=False)
        for section, values in config.model_dump(mode="json").items()
        for key, value in values.items()
    }
