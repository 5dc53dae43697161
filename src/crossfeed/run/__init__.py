"""The folder of a training."""

from crossfeed.run.folder import CheckpointName, Run, may_begin, seen

__all__ = ["CheckpointName", "Run", "may_begin", "seen"]
