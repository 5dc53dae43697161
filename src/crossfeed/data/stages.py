"""Show on stderr which stage of a longer work is running."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

__all__ = ["Stage", "stages"]

Stage = Callable[[str], None]
"""Call it with what begins now; what ran before is done."""

_log = logging.getLogger(__name__)


@contextmanager
def stages(title: str) -> Iterator[Stage]:
    """Yield a function that announces the next stage; on a terminal a spinner shows it."""
    console = Console(stderr=True)
    began = time.monotonic()
    with console.status(title) as status:

        def begin(stage: str) -> None:
            _log.info("%s: %s", title, stage)
            status.update(f"{title}: {stage} ({time.monotonic() - began:.0f} s so far)")

        yield begin
