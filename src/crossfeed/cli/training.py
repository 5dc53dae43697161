"""Commands from a dataset to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from crossfeed.cli import output, tables
from crossfeed.cli.options import ConfigFile, Json, Overwrite, Preset, Settings
from crossfeed.cli.options import read_settings as _read_settings

__all__ = ["evaluate", "export", "train"]

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that train wrote.")]


def train(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="A folder of prepare.")],
    *,
    out: Annotated[Path, typer.Option(metavar="RUN", help="The folder to write.")],
    config: ConfigFile = None,
    settings: Settings = None,
    preset: Preset = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where RUN stopped, with RUN's own settings."),
    ] = False,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="Then train on all data, as many epochs as were best."),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Train generator and discriminator in turn, and keep the epoch that validates best.

    Ctrl-C saves the state and says how to go on.

    \b
    crossfeed train DATASET --out RUN
    crossfeed train DATASET --out RUN --set train.epochs=5 --set train.seed=7
    crossfeed train DATASET --out RUN --preset claims
    crossfeed train DATASET --out RUN --resume --refit
    """
    read = _read_settings(config, settings, sections=["model", "train"], preset=preset)
    from crossfeed.data.dataset import Dataset
    from crossfeed.training.trainer import train

    if resume and (out / "config.json").exists() and (config or settings or preset):
        output.say(f"note: a run that is resumed keeps the settings of {out / 'config.json'}")
    train(
        Dataset.load(dataset),
        out=out,
        config=read,
        resume=resume,
        refit=refit,
        overwrite=overwrite,
    )
    output.say(f"the run is in {out}; next: crossfeed evaluate {out}")


def evaluate(
    run: RunFolder,
    *,
    part: Annotated[
        Literal["test", "validation"],
        typer.Option(help="Held-out clicks to rank; choose anything on validation only."),
    ] = "test",
    baselines: Annotated[
        str, typer.Option(metavar="NAMES", help="Compared with, by comma; '' for none.")
    ] = "popularity,item-knn",
    as_json: Json = False,
) -> None:
    """Rank held-out clicks among all items of their domain, beside simple baselines.

    The figures are kept as results.json in the run.

    \b
    crossfeed evaluate RUN
    crossfeed evaluate RUN --part validation --baselines popularity --json
    """
    from crossfeed.data.dataset import Part
    from crossfeed.evaluation.evaluate import evaluate
    from crossfeed.run import Run

    opened = Run.open(run)
    names = [name.strip() for name in baselines.split(",") if name.strip()]
    results = evaluate(opened, opened.dataset(), part=Part[part.upper()], baselines=names)
    opened.write_results(results)
    if as_json:
        output.print_json(results.to_json())
    else:
        tables.print_results(output.stdout(), results)
        output.say(f"kept in {run / 'results.json'}; next: crossfeed export {run} --out BUNDLE")


def export(
    run: RunFolder,
    *,
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="The folder to write.")],
    without_histories: Annotated[
        bool, typer.Option("--without-histories", help="Leave out what users did.")
    ] = False,
    all_domains: Annotated[
        bool,
        typer.Option("--all-domains", help="Serve also the domains that the gate holds back."),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write what serving needs of a run into one folder.

    \b
    crossfeed export RUN --out BUNDLE
    """
    from crossfeed.export import export
    from crossfeed.run import Run

    opened = Run.open(run)
    export(
        opened,
        out=out,
        histories=not without_histories,
        all_domains=all_domains,
        overwrite=overwrite,
    )
    held_back = () if all_domains else opened.held_back()
    if held_back:
        output.say(
            f"held back by {run / 'gate.json'}, served by popularity: {', '.join(held_back)}"
        )
    output.say(f"the bundle is in {out}; next: crossfeed serve {out}")
