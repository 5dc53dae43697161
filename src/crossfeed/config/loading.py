"""Reading settings from a preset, a TOML file and `section.key=value`; later ones win.

An unknown key is an error, and all problems of a configuration are reported at once.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from crossfeed.config.removed import without_removed
from crossfeed.config.sections import PRESETS, Config
from crossfeed.errors import ConfigError

__all__ = ["load_config", "parse_config", "setting_names"]

_ALIKE = 0.75
"""Likeness of names, in [0, 1], from which one may be meant by the other."""


def load_config(
    path: Path | str | None = None, *, overrides: Sequence[str] = (), preset: str | None = None
) -> Config:
    """Read settings: defaults < `preset` < the TOML file at `path` < `overrides`.

    Args:
        path: a TOML file with the sections `[data]`, `[model]` and `[train]`, each optional.
        overrides: `section.key=value`, the value written as in TOML; bare words are strings.
        preset: a key of `PRESETS`.

    Raises:
        ConfigError: naming every unknown key and every bad value at once.
    """
    tree: dict[str, dict[str, Any]] = {}  # Any: values as TOML gives them, not yet validated
    if preset is not None:
        if preset not in PRESETS:
            raise ConfigError(f"preset '{preset}' is unknown; it is one of: {', '.join(PRESETS)}")
        _merge(tree, PRESETS[preset])
    if path is not None:
        _merge(tree, _read_toml(path))
    for override in overrides:
        _merge(tree, _parse_override(override))
    return parse_config(tree, source=str(path) if path else None)


def parse_config(tree: Mapping[str, object], *, source: str | None = None) -> Config:
    """Validate settings given as nested mappings.

    Removed settings of version 0.1 are allowed with their fixed value (`REMOVED`).

    Raises:
        ConfigError: naming every unknown key and every bad value at once.
    """
    kept, problems = without_removed(tree)
    try:
        config = Config.model_validate(kept)
    except ValidationError as error:
        problems += [_problem(detail) for detail in error.errors()]
    if not problems:
        return config
    where = f" in '{source}'" if source else ""
    count = "a setting is" if len(problems) == 1 else f"{len(problems)} settings are"
    raise ConfigError(
        f"{count} not valid{where}:\n" + "\n".join(f"  {problem}" for problem in problems)
    )


def setting_names() -> list[str]:
    """Return all settings as `section.key`."""
    return [
        f"{section}.{key}"
        for section, field in Config.model_fields.items()
        for key in getattr(field.annotation, "model_fields", {})
    ]


def _merge(tree: dict[str, dict[str, Any]], other: Mapping[str, Any]) -> None:
    for section, values in other.items():
        if not isinstance(values, Mapping):
            raise ConfigError(f"'{section}' must be a section, such as [train]; it is {values!r}")
        for key, value in values.items():
            present = tree.setdefault(section, {})
            if isinstance(value, Mapping) and isinstance(present.get(key), dict):
                present[key] = {**present[key], **value}
            else:
                present[key] = value


def _read_toml(path: Path | str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"the configuration '{path}' does not exist") from None
    except OSError as error:
        raise ConfigError(f"cannot read the configuration '{path}': {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' is not valid TOML: {error}") from None


def _parse_override(override: str) -> dict[str, Any]:
    name, equals, text = override.partition("=")
    parts = name.strip().split(".")
    if not equals or len(parts) < 2 or not all(parts):
        raise ConfigError(
            f"'{override}' is not a setting", hint="write it as section.key=value: train.epochs=5"
        )
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for part in reversed(parts[1:]):
        value = {part: value}
    return {parts[0]: value}


def _problem(detail: Any) -> str:  # Any: pydantic's own TypedDict of one error
    name = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        section = Config.model_fields.get(str(detail["loc"][0]))
        known = getattr(section.annotation, "model_fields", {}) if section else Config.model_fields
        close = get_close_matches(name, setting_names(), n=1, cutoff=_ALIKE)
        meant = f"; did you mean {close[0]}?" if close else ""
        return f"{name} is unknown{meant}; known here: {', '.join(known)}"
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    return f"{name} = {detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
