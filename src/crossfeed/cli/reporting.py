"""The command that writes a run's report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossfeed.cli import output
from crossfeed.cli.options import Overwrite, RunFolder

__all__ = ["report"]


def report(
    run: RunFolder,
    *,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The page to write. [default: RUN/report.html]"),
    ] = None,
    examples: Annotated[
        int, typer.Option(min=0, metavar="N", help="Users shown, by their ids; 0 for none.")
    ] = 6,
    overwrite: Overwrite = False,
) -> None:
    """Write a run's report: one HTML page that needs no network.

    Learning curves, quality by domain with intervals beside the baselines of the last evaluation,
    transfer if it was measured, examples with the history that drove them, and the commands to
    get it all again. Nothing is measured again.

    \b
    crossfeed evaluate RUN --baselines all && crossfeed report RUN
    """
    from crossfeed.run import Run
    from crossfeed.studies.reporting import write_report

    file = write_report(Run.open(run), out=out, examples=examples, overwrite=overwrite)
    words = ["export", run, "--out", "BUNDLE"]
    output.say(f"the report is in {file}; open it in a browser; next: {output.command(*words)}")
