"""The command line: one table of commands.

Each command lives in the file of its concern and imports what it needs when it runs, so that
`crossfeed --help` loads neither torch nor DuckDB. Data goes to stdout, logs and progress to stderr.
A known error is one line on stderr with a hint, and exit code 1; a misuse of the command line is
exit code 2, Ctrl-C 130.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from crossfeed import __version__
from crossfeed.cli import (
    comparing,
    data,
    generating,
    output,
    reporting,
    serving,
    start,
    training,
    tuning,
)
from crossfeed.config import setting_names
from crossfeed.errors import ConfigError, CrossfeedError

__all__ = ["COMMANDS", "HISTORIES", "app", "main"]

Command = Callable[..., None]

COMMANDS: dict[str, dict[str, Command]] = {
    "Start here": {
        "demo": start.demo,
    },
    "From logs to a dataset": {
        "simulate": data.simulate,
        "sources": data.sources,
        "validate": data.validate,
        "prepare": data.prepare,
    },
    "From a dataset to a bundle": {
        "tune": tuning.tune,
        "train": training.train,
        "evaluate": training.evaluate,
        "compare": comparing.compare,
        "report": reporting.report,
        "generate": generating.generate,
        "export": training.export,
    },
    "From a bundle to recommendations": {
        "recommend": serving.recommend,
        "serve": serving.serve,
        "pin": serving.pin,
    },
}
"""Panel of the help page -> name of a command -> its function."""

HISTORIES: dict[str, Command] = {
    "load": serving.load_histories,
    "export": serving.export_histories,
    "forget": serving.forget_user,
}
"""Name of a command under `crossfeed histories` -> its function."""


def main() -> None:
    """Run the command line of this process and exit."""
    app(prog_name="crossfeed")


class _Commands(TyperGroup):
    """Turns a known error into a line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:  # Any: typer does not export the types that it passes
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _stopped() from None
        except Exception as error:
            if _is_interrupt(error):
                raise _stopped() from None
            if isinstance(error, CrossfeedError):
                output.print_error(error)
                raise typer.Exit(1) from None
            _point_to_settings(error)
            raise


def _stopped() -> typer.Exit:
    print("stopped", file=sys.stderr)
    return typer.Exit(130)


def _is_interrupt(error: BaseException | None) -> bool:
    """Return whether Ctrl-C is behind an error: DuckDB raises its own where it meets the signal."""
    while error is not None:
        text = str(error)
        if isinstance(error, KeyboardInterrupt) or "Query interrupted" in text:
            return True
        if type(error).__name__ == "InterruptException":
            return True
        error = error.__cause__ or error.__context__
    return False


def _point_to_settings(error: Any) -> None:  # Any: typer does not export its errors
    """Let the error of an unknown option name the settings of that name, if it is one."""
    key = str(getattr(error, "option_name", "")).lstrip("-").replace("-", "_")
    if key and hasattr(error, "possibilities"):
        settings = [f"--set {name}=VALUE" for name in setting_names() if name.endswith(f".{key}")]
        error.possibilities = [*(error.possibilities or ()), *settings]


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """One recommender for many product domains that share users.

    \b
    crossfeed demo                                see the whole line at work
    crossfeed prepare clicks.parquet --out DATASET
    crossfeed train DATASET --out RUN
    crossfeed evaluate RUN                        per domain, beside baselines
    crossfeed export RUN --out BUNDLE
    crossfeed recommend BUNDLE --domain books --user ann
    crossfeed serve BUNDLE                        HTTP on 127.0.0.1:8000
    """
    output.log_to_stderr()
    processes = os.environ.get("WORLD_SIZE", "1")
    if context.invoked_subcommand != "train" and "LOCAL_RANK" in os.environ and processes != "1":
        raise ConfigError(
            f"'{context.invoked_subcommand}' is the work of one process, and there are {processes}",
            hint="call it without torchrun, which is for train",
        )


def _build() -> typer.Typer:
    built = typer.Typer(
        cls=_Commands,
        callback=_root,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for panel, commands in COMMANDS.items():
        for name, command in commands.items():
            built.command(name, rich_help_panel=panel)(command)
    histories = typer.Typer(
        help="Fill, save or clean the history store of a service.", no_args_is_help=True
    )
    for name, command in HISTORIES.items():
        histories.command(name)(command)
    built.add_typer(histories, name="histories", rich_help_panel="From a bundle to recommendations")
    return built


app = _build()
"""The typer application, for tests and for documentation tools."""
