"""The command that shows the whole line at work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo"]


def demo(
    *,
    out: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Where it works; a former demonstration there goes."),
    ] = Path("demo"),
    serve: Annotated[bool, typer.Option("--serve", help="Then serve the bundle.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the service.")] = 8000,
) -> None:
    """Simulate a log, run the whole line on it and show recommendations.

    \b
    crossfeed demo
    crossfeed demo --serve
    """
    from crossfeed.cli.demo import run_demo

    run_demo(out, serve=serve, port=port)
