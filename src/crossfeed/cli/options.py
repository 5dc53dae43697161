"""Options that several commands share, and settings from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from crossfeed.config import PRESETS, Config, load_config
from crossfeed.errors import ConfigError

__all__ = [
    "ConfigFile",
    "Json",
    "Overwrite",
    "Preset",
    "RunFolder",
    "Seed",
    "Settings",
    "SourceName",
    "read_settings",
]

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="Settings in TOML; prepare and train read the same file."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="One setting, above the file. Repeatable."
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(metavar="NAME", help=f"Named settings, below the file: {', '.join(PRESETS)}."),
]
SourceName = Annotated[
    str | None,
    typer.Option("--source", metavar="NAME", help="A public data set: see `crossfeed sources`."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what exists already.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that train wrote.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Seed = Annotated[
    int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same result.")
]


def read_settings(
    file: Path | None,
    settings: Sequence[str] | None,
    *,
    sections: Sequence[str],
    preset: str | None = None,
) -> Config:
    """Read a command's settings.

    Args:
        file: the file of `--config`; its sections for other commands are checked and not used.
        settings: the values of `--set`.
        sections: those that the command uses; setting another by hand is an error, because it
            would change nothing.
        preset: the value of `--preset`.

    Raises:
        ConfigError: naming every unknown key and every bad value at once.
    """
    config = load_config(file, overrides=settings or (), preset=preset)
    given = {setting.partition(".")[0].strip() for setting in settings or ()}
    idle = sorted(given - set(sections))
    if idle:
        allowed = " and ".join(f"{section}.*" for section in sections)
        raise ConfigError(
            f"--set {idle[0]}.* has no effect here; this command uses {allowed}",
            hint="data.* belongs to crossfeed prepare, model.* and train.* to crossfeed train",
        )
    return config
