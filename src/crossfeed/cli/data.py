"""Commands from logs to a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossfeed.cli import output, tables
from crossfeed.cli.options import ConfigFile, Json, Overwrite, Seed, Settings, SourceName
from crossfeed.cli.options import read_settings as _read_settings
from crossfeed.config import DataConfig

if TYPE_CHECKING:
    from crossfeed.evaluation.audit import AuditReport

__all__ = ["prepare", "simulate", "sources", "validate"]


def simulate(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The log to write: .parquet, .csv, .jsonl.")
    ],
    *,
    users: Annotated[int, typer.Option(help="Users.")] = 4_000,
    items: Annotated[int, typer.Option(help="Items of all domains together.")] = 3_000,
    domains: Annotated[int, typer.Option(help="Domains, from dense to sparse.")] = 8,
    events: Annotated[int, typer.Option(help="Events, about.")] = 200_000,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write a log of several domains with planted truth, and the truth beside it.

    Users have a taste that acts in every domain, so clicks in one domain predict those in others.

    \b
    crossfeed simulate clicks.parquet
    crossfeed simulate small.parquet --users 500 --items 400 --domains 4 --events 20000
    """
    from crossfeed.data.simulate.clicks import simulate

    simulation = simulate(
        out,
        users=users,
        items=items,
        domains=domains,
        events=events,
        seed=seed,
        overwrite=overwrite,
    )
    output.say(
        f"wrote {simulation.events:,} events to {simulation.log}, their truth to {simulation.truth}"
    )
    output.say(f"next: {output.command('prepare', simulation.log, '--out', 'DATASET')}")


def sources(*, as_json: Json = False) -> None:
    """List the public data sets that `prepare --source` reads, with the rules it applies.

    \b
    crossfeed sources
    crossfeed prepare ml-100k/ --source movielens-100k --out DATASET
    """
    from crossfeed.data.sources import SOURCES

    if as_json:
        output.print_json([tables.source_facts(source) for source in SOURCES.values()])
        return
    for source in SOURCES.values():
        output.stdout().print(tables.source_text(source))


def validate(
    what: Annotated[str, typer.Argument(metavar="LOG|DATASET|RUN|BUNDLE", help="What to look at.")],
    *,
    config: ConfigFile = None,
    settings: Settings = None,
    source: SourceName = None,
    as_json: Json = False,
) -> None:
    """Say whether a log can be used, or a dataset, run or bundle is sound; exit code 1 if not.

    A dataset and a run are also audited for leakage: held-out clicks must not take part in
    learning.

    \b
    crossfeed validate clicks.parquet
    crossfeed validate clicks.csv.gz --set 'data.columns.user_id="uid"'
    crossfeed validate DATASET
    """
    path = Path(what)
    if (path / "manifest.json").is_file():
        _validate_dataset(path, as_json=as_json)
        return
    if (path / "config.json").is_file():
        _validate_run(path, as_json=as_json)
        return
    if (path / "bundle.json").is_file():
        _validate_bundle(path)
    else:
        read = _read_settings(config, settings, sections=["data"])
        _validate_log(what, read.data, source, as_json=as_json)
        return
    if as_json:
        output.print_json({"path": str(path), "valid": True})


def prepare(
    logs: Annotated[
        list[str],
        typer.Argument(
            metavar="LOGS",
            help="Files, folders or globs (Parquet, CSV, JSONL), or a database's URL.",
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="DATASET", help="The folder to write.")],
    config: ConfigFile = None,
    settings: Settings = None,
    source: SourceName = None,
    memory_limit: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory of the engine, as 2GiB; beyond it spills."),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            metavar="ENGINE", help="duckdb, spark, or a Spark master as spark://host:7077."
        ),
    ] = "duckdb",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Turn logs into a dataset: check, filter, split and number them.

    A log has the columns user_id, item_id, domain and timestamp; data.columns names others, and
    data.positive says which rows are clicks.

    \b
    crossfeed prepare clicks.parquet --out DATASET
    crossfeed prepare 'logs/*.csv.gz' --config shop.toml --out DATASET
    crossfeed prepare r.csv --out D --set 'data.positive="rating >= 4"'
    crossfeed prepare ml-100k/ --source movielens-100k --out DATASET
    crossfeed prepare 'postgres://me@warehouse/shop?table=clicks' --out DATASET
    crossfeed prepare 'logs/*.parquet' --engine spark://master:7077 --out DATASET
    """
    from crossfeed.data.prepare.pipeline import prepare

    read = _read_settings(config, settings, sections=["data"])
    dataset = prepare(
        logs,
        out=out,
        config=read.data,
        source=source,
        overwrite=overwrite,
        memory_limit=memory_limit,
        engine=engine,
    )
    if as_json:
        output.print_json(dataset.manifest)
    else:
        output.stdout().print(*tables.dataset_summary(dataset.manifest), sep="\n")
        output.say(f"next: {output.command('train', out, '--out', 'RUN')}")


def _validate_dataset(path: Path, *, as_json: bool) -> None:
    from crossfeed.data.dataset import Dataset
    from crossfeed.evaluation.audit import audit

    dataset = Dataset.load(path)
    dataset.verify()
    output.say(f"the dataset '{path}' is whole: every hash is as its manifest says")
    _tell(audit(dataset), path, as_json=as_json)


def _validate_run(path: Path, *, as_json: bool) -> None:
    from crossfeed.run import Run
    from crossfeed.studies.auditing import audit_run

    _tell(audit_run(Run.open(path)), path, as_json=as_json)


def _tell(report: AuditReport, path: Path, *, as_json: bool) -> None:
    """Print an audit; exit code 1 where a rule does not hold."""
    if as_json:
        output.print_json({"path": str(path), "valid": report.passed, **report.to_json()})
    else:
        output.stdout().print(tables.audit_table(report))
    if not report.passed:
        raise typer.Exit(1)


def _validate_bundle(path: Path) -> None:
    from crossfeed.bundle import Bundle

    Bundle.load(path)
    output.say(f"the bundle '{path}' is whole: every hash is as bundle.json says")


def _validate_log(log: str, config: DataConfig, source: str | None, *, as_json: bool) -> None:
    from crossfeed.data.inspect.quality import validate_log

    report = validate_log(log, config=config, source=source)
    if as_json:
        output.print_json(report.to_json())
    else:
        output.stdout().print(*tables.log_report(report), sep="\n")
