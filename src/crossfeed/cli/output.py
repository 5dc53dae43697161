"""Output of the commands: data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import logging
import shlex
import sys

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.status import Status
from rich.table import Table
from rich.text import Text

from crossfeed.errors import CrossfeedError

__all__ = [
    "command",
    "fits",
    "log_to_stderr",
    "make_table",
    "print_error",
    "print_json",
    "say",
    "status",
    "stdout",
    "title",
]

_FILE_WIDTH = 200
"""Columns of a table in a file or a pipe, where lines need not fold."""


def stdout() -> Console:
    """Return a console on stdout; outside a terminal it neither colours nor folds.

    Text is printed literally: names and ids may look like Rich's markup.
    """
    if sys.stdout.isatty():
        return Console(markup=False, emoji=False)
    return Console(width=_FILE_WIDTH, no_color=True, highlight=False, markup=False, emoji=False)


def make_table(*columns: str) -> Table:
    """Return an empty table: the first column holds words, the others figures."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def fits(console: Console, table: Table) -> bool:
    """Return whether a console is wide enough for a table without folding its cells."""
    unbounded = console.options.update(width=10_000)
    return Measurement.get(console, unbounded, table).maximum <= console.width


def title(text: str) -> Text:
    """Return the line above a table; a table's own title would be folded at its width."""
    return Text(text, "bold")


def print_json(value: object) -> None:
    """Print a value for machines."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def say(line: str) -> None:
    """Print a line for people, on stderr."""
    print(line, file=sys.stderr)


def command(*words: object) -> str:
    """Return a command of crossfeed as it is typed, with quotes where a shell needs them."""
    return shlex.join(["crossfeed", *map(str, words)])


def status(text: str) -> Status:
    """Return a context in which stderr, if a terminal, shows the current work."""
    return Console(stderr=True).status(text)


def print_error(error: CrossfeedError) -> None:
    """Print a known error: the message, then a hint."""
    say(f"error: {error.message}")
    if error.hint:
        say(f"hint: {error.hint}")


def log_to_stderr() -> None:
    """Send crossfeed's own log to stderr; on a terminal, progress bars show the rest."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("crossfeed")
    log.handlers = [handler]
    log.setLevel(logging.WARNING if sys.stderr.isatty() else logging.INFO)
