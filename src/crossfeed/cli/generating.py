"""The command that lets the generator expand a domain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from crossfeed.cli import output
from crossfeed.cli.options import Json, Overwrite, RunFolder, Seed

if TYPE_CHECKING:
    from rich.table import Table

    from crossfeed.studies.plausibility import Expansion, Plausibility

__all__ = ["generate"]


def generate(
    run: RunFolder,
    *,
    domain: Annotated[str, typer.Option(help="The domain to be expanded.")],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="The file to write: .parquet, .csv, .jsonl.")
    ],
    per_user: Annotated[int, typer.Option(min=1, help="Samples of each user.")] = 10,
    users: Annotated[
        Literal["all", "new"],
        typer.Option(help="Everybody with a click, or only who has none in the domain."),
    ] = "all",
    truth: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The truth that `simulate` wrote, to judge by."),
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write pseudo-samples of a domain: what the generator thinks its users would click.

    Columns: user_id, item_id, domain, confidence, score. None repeats a click of the training
    part. Printed is what they are worth beside samples drawn by popularity: how many are clicks
    that were held out and, of a simulated log, how many are to the user's true taste.

    \b
    crossfeed generate RUN --domain books --out books.parquet
    crossfeed generate RUN --domain books --users new --out books.parquet
    """
    from crossfeed.run import Run
    from crossfeed.studies.expansion import generate

    expansion = generate(
        Run.open(run),
        domain=domain,
        out=out,
        per_user=per_user,
        users=users,
        seed=seed,
        truth=truth,
        overwrite=overwrite,
    )
    if as_json:
        output.print_json(expansion.to_json())
        return
    output.stdout().print(_table(expansion))
    output.say(f"wrote {expansion.samples:,} samples to {out}")


def _table(expansion: Expansion) -> Table:
    table = output.make_table(
        "judged by", "users", "samples", "coverage", "good samples", "by popularity", "lift"
    )
    for name, found in (("held-out clicks", expansion.held_out), ("truth", expansion.truth)):
        if found is not None:
            facts = (f"{expansion.users:,}", f"{expansion.samples:,}", f"{expansion.coverage:.1%}")
            table.add_row(name, *facts, *_plausible(found))
    return table


def _plausible(found: Plausibility) -> tuple[str, str, str]:
    lift = "" if found.lift is None else f"{found.lift:.2f} x"
    return f"{found.precision:.2%}", f"{found.popularity:.2%}", lift
