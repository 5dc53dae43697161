"""The folder of a training."""

from crossfeed.run.folder import (
    CheckpointName,
    Run,
    may_begin,
    only_training,
    require_place,
    seen,
)

__all__ = ["CheckpointName", "Run", "may_begin", "only_training", "require_place", "seen"]
