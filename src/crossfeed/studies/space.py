"""Which settings a search tries: ranges and choices by name."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from crossfeed.config import Config, parse_config
from crossfeed.errors import ConfigError

__all__ = ["SPACE", "Choices", "Range", "Space", "read_space", "require_allowed", "with_settings"]

Value = bool | int | float | str


class Range(BaseModel):
    """Numbers from `low` to `high`; integers if both are integers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    low: int | float
    high: int | float
    log: bool = False
    """Whether to draw on a logarithmic scale."""

    def edges(self) -> tuple[Value, ...]:
        """Return the values to check on behalf of all."""
        return self.low, self.high


class Choices(BaseModel):
    """A few values."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    choices: Annotated[tuple[Value, ...], Field(min_length=1, strict=False)]

    def edges(self) -> tuple[Value, ...]:
        """Return the values to check on behalf of all."""
        return self.choices


Space = Mapping[str, Range | Choices]
"""`section.key` -> the values to try."""

SPACE: Space = {
    "train.learning_rate": Range(low=1e-3, high=1e-2, log=True),
    "train.weight_decay": Range(low=0.01, high=0.5, log=True),
    "train.proposal_share": Range(low=0.0, high=0.9),
    "train.reward_weight": Range(low=0.01, high=1.0, log=True),
    "model.dropout": Range(low=0.2, high=0.7),
    "model.drop_share": Range(low=0.0, high=0.6),
    "model.mask_share": Range(low=0.0, high=0.5),
    "model.discriminator": Choices(choices=("translation", "mmoe", "pepnet", "star")),
}
"""The default search space."""


def read_space(file: Path) -> Space:
    """Read a space from TOML: in [model] and [train], `key = {low, high, log}` or `{choices}`.

    Raises:
        ConfigError: it cannot be read, is empty, or has an entry of neither form.
    """
    try:
        tree = tomllib.loads(file.read_text("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read the space '{file}': {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the space '{file}' is not TOML: {error}") from None
    adapter: TypeAdapter[Range | Choices] = TypeAdapter(Range | Choices)
    space: dict[str, Range | Choices] = {}
    for section, entries in tree.items():
        if section not in ("model", "train") or not isinstance(entries, dict):
            raise ConfigError(
                f"'{section}' in the space '{file}' is not searched; [model] and [train] are"
            )
        for key, entry in entries.items():
            try:
                space[f"{section}.{key}"] = adapter.validate_python(entry)
            except ValidationError:
                raise ConfigError(
                    f"{section}.{key} = {entry!r} in the space '{file}' is not a range",
                    hint="write {low = 0.001, high = 0.01, log = true} or {choices = [32, 64]}",
                ) from None
    if not space:
        raise ConfigError(f"the space '{file}' names no setting")
    return space


def require_allowed(space: Space, config: Config) -> None:
    """Check the ends of every range and every choice before any training.

    Raises:
        ConfigError: a setting is unknown, a value not allowed, or a range upside down.
    """
    for name, values in space.items():
        if isinstance(values, Range) and not values.low < values.high:
            raise ConfigError(
                f"{name}: the range's low {values.low} must be below its high {values.high}"
            )
        if isinstance(values, Range) and values.log and values.low <= 0:
            raise ConfigError(f"{name}: a logarithmic range begins above 0, not at {values.low}")
        for value in values.edges():
            with_settings(config, {name: value})


def with_settings(config: Config, settings: Mapping[str, Value]) -> Config:
    """Return a configuration with some of its settings replaced.

    Raises:
        ConfigError: naming the settings that are not allowed.
    """
    tree = config.model_dump(mode="json")
    for name, value in settings.items():
        section, _, key = name.partition(".")
        tree[section][key] = value
    return parse_config(tree)
