"""Files that the workers of one port share: their counters, and the version in service."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from crossfeed.errors import OutputError
from crossfeed.files import atomic_path

__all__ = ["WorkerFolder"]


@dataclass(frozen=True)
class WorkerFolder:
    """A private folder that lives as long as the workers."""

    path: Path

    @property
    def metrics(self) -> Path:
        """Return where all workers count."""
        return self.path / "metrics"

    def remember(self, version: str) -> None:
        """Note the model in service, so that a worker that takes another's place serves it too."""
        # Where it cannot be written, such a worker serves the pinned version all the same.
        with contextlib.suppress(OutputError), atomic_path(self.path / "model") as temporary:
            temporary.write_text(version, "utf-8")

    def last_version(self) -> str:
        """Return the version that was noted last."""
        return (self.path / "model").read_text("utf-8")
