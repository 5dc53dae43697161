"""The command that searches for better settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from crossfeed.cli import output
from crossfeed.cli.options import ConfigFile, Json, Preset, Seed, Settings, read_settings

if TYPE_CHECKING:
    from crossfeed.studies.search import Search, SearchTrial

__all__ = ["tune"]

_SHOWN = 10


def tune(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="A folder of prepare.")],
    *,
    out: Annotated[Path, typer.Option(metavar="STUDY", help="The folder to write or continue.")],
    trials: Annotated[int, typer.Option(min=1, help="Trainings in all.")] = 20,
    space: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Search space in TOML: docs/tuning.md."),
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    preset: Preset = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train with different settings and keep the best on validation; test is never read.

    Trainings below the median of the others stop early. If interrupted, the same command continues
    the search. The study's folder gets best.toml, for train --config, and importances.svg.

    \b
    crossfeed tune DATASET --out STUDY --trials 30
    crossfeed tune DATASET --out STUDY --space space.toml --set train.epochs=10
    crossfeed train DATASET --out RUN --config STUDY/best.toml
    """
    base = read_settings(config, settings, sections=["model", "train"], preset=preset)
    from crossfeed.data.dataset import Dataset
    from crossfeed.studies.search import search
    from crossfeed.studies.space import SPACE, read_space

    found = search(
        Dataset.load(dataset),
        out=out,
        config=base,
        space=read_space(space) if space else SPACE,
        trials=trials,
        seed=seed,
        tell=_tell,
    )
    if found.importances:
        _draw(found.importances, out / "importances.svg")
    if as_json:
        output.print_json({**asdict(found), "best": asdict(found.best) if found.best else None})
        return
    output.stdout().print(_table(found))
    if found.importances:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in found.importances.items())
        output.stdout().print(f"importance of the settings: {shares}", highlight=False)
    if found.best:
        words = ["train", dataset, "--out", "RUN", "--config", out / "best.toml"]
        output.say(f"next: {output.command(*words)}")


def _tell(trial: SearchTrial) -> None:
    figure = "" if trial.value is None else f", {trial.value:.4f}"
    output.say(f"trial {trial.number}: {trial.state}{figure}")


def _table(found: Search) -> Table:
    """Return the best trials, one column per setting."""
    table = Table(title=f"validation {found.metric}, the best of {len(found.trials)} trials")
    names = list(found.trials[0].settings)
    for name in ("trial", found.metric, *names):
        table.add_column(name, justify="right", overflow="fold")
    complete = [trial for trial in found.trials if trial.value is not None]
    for trial in sorted(complete, key=lambda trial: -(trial.value or 0.0))[:_SHOWN]:
        values = (_text(trial.settings[name]) for name in names)
        table.add_row(str(trial.number), f"{trial.value:.4f}", *values)
    return table


def _text(value: bool | int | float | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _draw(importances: Mapping[str, float], file: Path) -> None:
    """Draw the settings' importances as bars, the largest on top."""
    from matplotlib.figure import Figure

    from crossfeed.files import atomic_path

    figure = Figure(figsize=(6, 1 + 0.35 * len(importances)), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(importances), list(importances.values()))
    axes.invert_yaxis()
    axes.set_xlabel("share of the variation of validation figures")
    with atomic_path(file) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
