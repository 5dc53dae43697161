"""Commands from a dataset to a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from crossfeed.cli import output, tables
from crossfeed.cli.options import ConfigFile, Json, Overwrite, Preset, RunFolder, Settings
from crossfeed.cli.options import read_settings as _read_settings

if TYPE_CHECKING:
    from crossfeed.evaluation.results import Results
    from crossfeed.run import Run

__all__ = ["evaluate", "export", "train"]


def train(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="A folder of prepare.")],
    *,
    out: Annotated[Path, typer.Option(metavar="RUN", help="The folder to write.")],
    config: ConfigFile = None,
    settings: Settings = None,
    preset: Preset = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue RUN with its own settings."),
    ] = False,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="Then train on all data, for the best number of epochs."),
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Also report to tensorboard or mlflow. Repeatable."),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also profile some steps: a table and a trace.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Train generator and discriminator in turn, and keep the best epoch on validation.

    Ctrl-C saves the state and shows how to continue. A resumed run keeps its settings; settings
    given with --resume must be the same.

    \b
    crossfeed train DATASET --out RUN
    crossfeed train DATASET --out RUN --set train.epochs=5 --set train.seed=7
    crossfeed train DATASET --out RUN --preset claims
    crossfeed train DATASET --out RUN --resume --refit
    torchrun --nproc-per-node 2 -m crossfeed train DATASET --out RUN
    """
    tracked = [f"train.track={json.dumps(track)}"] if track else []
    read = _read_settings(
        config, [*(settings or ()), *tracked], sections=["model", "train"], preset=preset
    )
    from crossfeed.data.dataset import Dataset
    from crossfeed.training.loop.trainer import train
    from crossfeed.training.parallel.process_group import joined

    with joined() as workers:
        train(
            Dataset.load(dataset),
            out=out,
            config=read,
            resume=resume,
            refit=refit,
            overwrite=overwrite,
            profile=profile,
        )
    if not workers.leads:
        return
    if profile:
        _say_profile(out)
    output.say(f"the run is in {out}; next: {output.command('evaluate', out)}")


def _say_profile(out: Path) -> None:
    from crossfeed.training.watch.profile import OPERATORS, TRACE

    if (out / TRACE).exists():
        output.say(f"the profile is in {out}: {OPERATORS}, {TRACE}")
    else:
        output.say("no profile: the training made too few steps after its warm-up epochs")


def evaluate(
    run: RunFolder,
    *,
    part: Annotated[
        Literal["test", "validation"],
        typer.Option(help="Held-out clicks to rank; choose settings on validation only."),
    ] = "test",
    baselines: Annotated[
        str, typer.Option(metavar="NAMES", help="Comma-separated names, '' for none, or all.")
    ] = "popularity,item-knn,live-popularity,demand",
    k: Annotated[
        int, typer.Option("-k", min=1, help="Length of the judged lists; names the metrics.")
    ] = 10,
    refresh_seconds: Annotated[
        int,
        typer.Option(
            min=0, help="Seconds of the log's time between two refreshes of demand; 0: exact."
        ),
    ] = 3600,
    transfer: Annotated[
        bool,
        typer.Option(
            "--transfer",
            help="Also measure transfer between domains; trains many networks.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Rank held-out clicks among all items of their domain, beside simple baselines.

    What everybody did before a click is known (live). On a temporal split the figures of a model
    that knows nothing after training (frozen) stand beside. The figures are kept as results.json in
    the run. --transfer trains the run's network on each domain alone, with the history in single
    domains, and without single domains; it keeps transfer.json, and gate.json with the domains that
    export holds back. If interrupted, the same command continues.

    \b
    crossfeed evaluate RUN
    crossfeed evaluate RUN --transfer
    crossfeed evaluate RUN -k 20
    crossfeed evaluate RUN --part validation --baselines demand --json
    """
    from crossfeed.data.dataset import Part
    from crossfeed.evaluation.baselines import BASELINES
    from crossfeed.evaluation.evaluate import evaluate
    from crossfeed.run import Run
    from crossfeed.studies.transfer import require_domains

    opened = Run.open(run)
    if transfer:
        require_domains(opened.dataset())
    names = [name.strip() for name in baselines.split(",") if name.strip()]
    if names == ["all"]:
        names = list(BASELINES)
    with output.status(f"evaluate: ranking the clicks of the {part} part"):
        dataset = opened.dataset()
        results = evaluate(
            opened,
            dataset,
            part=Part[part.upper()],
            baselines=names,
            k=k,
            refresh_seconds=refresh_seconds,
            frozen=dataset.config.split == "temporal",
        )
    opened.write_results(results)
    _note_unfinished(opened)
    if not as_json:
        tables.print_results(output.stdout(), results)
    measured = _measure_transfer(opened, part, show=not as_json) if transfer else None
    if as_json:
        output.print_json({**results.to_json(), **({"transfer": measured} if measured else {})})
    else:
        _note_unknown(results)
        output.say(f"kept in {run / 'results.json'}; next: {output.command('compare', run)}")


def _note_unknown(results: Results) -> None:
    """Say how many clicks no scorer could find, and what the frozen model reaches."""
    unknown = round(results.unknown_share * results.events)
    if unknown:
        output.say(
            f"{unknown:,} of {results.events:,} clicks ({results.unknown_share:.1%}) are on items "
            "that nobody clicked before; each counts as missed by every scorer"
        )
    if results.frozen is not None:
        metric = next(name for name in results.frozen.micro if name.startswith("ndcg@"))
        micro, macro = (one[metric] for one in (results.frozen.micro, results.frozen.macro))
        output.say(
            f"frozen, without anybody's clicks after training: {metric} {micro:.4f} micro, "
            f"{macro:.4f} macro"
        )


def _measure_transfer(run: Run, part: str, *, show: bool) -> dict[str, object]:
    """Measure transfer, keep it and the gate in the run, and return it as JSON."""
    from crossfeed.cli.comparing import print_transfer
    from crossfeed.data.dataset import Part
    from crossfeed.studies.transfer import held_back, measure_transfer

    measured = measure_transfer(run, part=Part[part.upper()])
    reasons = held_back(run)
    run.write_transfer(measured.to_json())
    run.write_gate(reasons)
    if show:
        print_transfer(output.stdout(), measured, reasons)
    return {**measured.to_json(), "held_back": reasons}


def _note_unfinished(run: Run) -> None:
    """Say that an interrupted training may still find better weights."""
    if not run.finished:
        words = ["train", run.facts["dataset"], "--out", str(run.path), "--resume"]
        output.say(
            f"the training of {run.path} is not finished: these are its best weights after epoch "
            f"{len(run.metrics())} of {run.config.train.epochs}; continue it with: "
            f"{output.command(*words)}"
        )


def export(
    run: RunFolder,
    *,
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="The folder to write.")],
    without_histories: Annotated[
        bool, typer.Option("--without-histories", help="Leave out the users' histories.")
    ] = False,
    without_onnx: Annotated[
        bool,
        typer.Option("--without-onnx", help="Leave out the fast encoder; torch encodes then."),
    ] = False,
    index_above: Annotated[
        int,
        typer.Option(min=0, help="Domains with more items get an index, if its recall allows it."),
    ] = 100_000,
    all_domains: Annotated[
        bool,
        typer.Option("--all-domains", help="Also serve the domains that the gate holds back."),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write everything that serving needs into one folder.

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
        onnx=not without_onnx,
        index_above=index_above,
        all_domains=all_domains,
        overwrite=overwrite,
    )
    _note_unfinished(opened)
    held_back = () if all_domains else opened.held_back()
    if held_back:
        output.say(
            f"held back by {run / 'gate.json'}, served by popularity: {', '.join(held_back)}"
        )
    output.say(f"the bundle is in {out}; next: {output.command('serve', out)}")
