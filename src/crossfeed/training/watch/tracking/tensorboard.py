"""TensorBoard: event files in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping

from crossfeed.config.differences import flat
from crossfeed.run import Run

__all__ = ["TensorboardTracker"]


class TensorboardTracker:
    """Writes to RUN/tensorboard/STAGE; look with `tensorboard --logdir RUN`."""

    def __init__(self, run: Run, stage: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # A resumed fit sends its epochs again, and they replace the earlier ones.
        self._writer = SummaryWriter(str(run.path / "tensorboard" / stage), purge_step=0)
        rows = "".join(f"| {name} | `{value}` |\n" for name, value in flat(run.config).items())
        self._writer.add_text("settings", f"| setting | value |\n| --- | --- |\n{rows}")

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Write an epoch's figures."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, number)
        self._writer.flush()

    def close(self, *, finished: bool) -> None:
        """Close the file."""
        self._writer.close()
