"""Several processes as one training: the share of each, and the exchanges between them.

Every process trains on the users of its own shard and makes its own batches; both players'
gradients are averaged over the clicks of all processes before they are clipped, so that the weights
stay equal bit by bit. A training alone goes through the same calls, which then do nothing.

Dims: W processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.profiler import record_function

from crossfeed.config import Config
from crossfeed.data.dataset import Dataset
from crossfeed.errors import ConfigError, TrainingError
from crossfeed.run import CheckpointName, Run
from crossfeed.scorer import Ints
from crossfeed.training.parallel.gradients import average_gradients, gather_tensors

__all__ = ["ALONE", "Follower", "Own", "Share", "Workers", "own_state", "steps_per_epoch"]

Own = dict[str, Any]  # Any: tensors and sums
"""Progress that each process accumulates itself: the state of its random numbers, and sums over the
steps of the running epoch."""

T = TypeVar("T")
N = TypeVar("N", int, float)


@dataclass(frozen=True)
class Share:
    """One process's share of each pass over the training clicks."""

    rank: int
    """The number of the process; each has its own order of clicks and its own masks."""
    steps: int
    """Batches in a pass, the same number in all processes: the clicks are divided evenly."""


def steps_per_epoch(clicks: int, config: Config) -> int:
    """Return the number of batches in one pass over the training clicks."""
    return -(-clicks // config.train.batch_size)


@dataclass(frozen=True)
class Workers:
    """The processes of one training, as one of them sees them."""

    rank: int = 0
    """The number of this process, from 0 to `count` - 1."""
    count: int = 1
    """W: how many processes there are."""
    local_rank: int = 0
    """The number of this process on its machine."""

    @property
    def leads(self) -> bool:
        """Return whether this is the process that shows progress and writes the run."""
        return self.rank == 0

    @property
    def program(self) -> str:
        """Return the command that starts crossfeed in as many processes of one machine."""
        if self.count == 1:
            return "crossfeed"
        return f"torchrun --nproc-per-node {self.count} -m crossfeed"

    def device(self, name: str) -> torch.device:
        """Return the device of this process: each has a GPU of its own.

        Raises:
            ConfigError: `name` is cuda and there is no GPU for this process.
        """
        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if name == "cpu" or (name == "auto" and not there):
            return torch.device("cpu")
        if not there:
            raise ConfigError("train.device = 'cuda', but torch sees no CUDA device")
        if self.local_rank >= there:
            raise ConfigError(
                f"process {self.local_rank} of this machine has no GPU of its own: it has {there}",
                hint=f"start torchrun with --nproc-per-node {there}, or set train.device=cpu",
            )
        return torch.device("cuda", self.local_rank)

    def share(self, dataset: Dataset, config: Config) -> tuple[Ints, Share | None]:
        """Return the clicks that this process trains on, and its share of a pass over all of them.

        Raises:
            TrainingError: there is no click.
            ConfigError: a step would leave a process without a click.
        """
        clicks = dataset.learned_events
        if not len(clicks):
            raise TrainingError(f"the training part of '{dataset.path}' has no click")
        if self.count == 1:
            return clicks, None
        steps = steps_per_epoch(len(clicks), config)
        users = [dataset.user_shard(rank, self.count) for rank in range(self.count)]
        bounds = [np.searchsorted(clicks, dataset.user_offsets[list(each)]) for each in users]
        least = min(last - first for first, last in bounds)
        if least < steps:
            raise ConfigError(
                f"{self.count} processes are too many: one of them would have {least} training "
                f"clicks for {steps} steps (train.batch_size = {config.train.batch_size} in all)",
                hint="start fewer processes, or raise train.batch_size",
            )
        first, last = bounds[self.rank]
        return clicks[first:last], Share(rank=self.rank, steps=steps)

    def seed(self, *numbers: int) -> int:
        """Return a seed that follows from the numbers and is another one in each process."""
        return int(np.random.SeedSequence([*numbers, self.rank, self.count]).generate_state(1)[0])

    def leaders_run(self, run: Run | None) -> Run:
        """Return the run that the leader opened; the others pass None."""
        opened = self.from_leader(run)
        if opened is None:
            raise TrainingError("the leader has opened no run")
        return opened if self.leads else Follower.of(opened)

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.gather(None)

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank, in every process."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count  # Any: torch's own signature
        dist.all_gather_object(values, value)
        return values

    def from_leader(self, value: T) -> T:
        """Return the leader's value, so that all processes decide alike."""
        return self.gather(value)[0]

    def added(self, sums: Mapping[str, N]) -> dict[str, N]:
        """Return the sums over all processes; a name may be missing in some."""
        return _added(self.gather(dict(sums)))

    def most(self, *numbers: int) -> tuple[int, ...]:
        """Return the largest of each number over all processes, so that all act alike."""
        if self.count == 1:
            return numbers
        with record_function("waiting for the slowest"):
            return tuple(gather_tensors(torch.tensor(numbers)).amax(dim=0).tolist())

    def totals(self, *numbers: int) -> tuple[int, ...]:
        """Return the sum of each number over all processes."""
        if self.count == 1:
            return numbers
        return tuple(gather_tensors(torch.tensor(numbers)).sum(dim=0).tolist())

    def union(self, numbers: Tensor) -> Tensor:
        """Return the union of all processes' numbers (n,), ascending, without repeats."""
        if self.count == 1:
            return numbers
        counts = gather_tensors(torch.tensor([len(numbers)]))
        padded = numbers.new_full((int(counts.max()),), -1)
        padded[: len(numbers)] = numbers
        told: Tensor = gather_tensors(padded).unique()  # type: ignore[no-untyped-call]
        return told[told >= 0]

    def means(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the means over all processes of values that have the same names in all."""
        if self.count == 1:
            return dict(values)
        told = gather_tensors(torch.tensor([*values.values()], dtype=torch.float64))
        return dict(zip(values, told.mean(dim=0).tolist(), strict=True))

    def average_gradients(self, player: nn.Module, *, rows: int) -> None:
        """Replace the gradients of a player by their mean over the clicks of all processes.

        Args:
            player: the one that moves.
            rows: clicks in this process's batch.
        """
        if self.count > 1:
            with record_function("gradient exchange"):
                moved = [one for one in player.parameters() if one.requires_grad]
                average_gradients(moved, rows=rows)

    @torch.no_grad()
    def spread_weights(self, module: nn.Module) -> None:
        """Give all processes the leader's weights, so that they begin as equals."""
        if self.count > 1:
            for value in (*_common(module), *module.buffers()):
                dist.broadcast(value, src=0)

    def require_equal_weights(self, module: nn.Module) -> None:
        """Compare the weights of all processes.

        Raises:
            TrainingError: the weights of a process differ from the leader's.
        """
        if self.count == 1:
            return
        found = gather_tensors(_fingerprint(module))  # (W, tensors)
        others = (found != found[0]).any(dim=1).nonzero().flatten().tolist()
        if others:
            raise TrainingError(
                f"the weights of process {others[0]} differ from the weights of process 0",
                hint="continue from the last checkpoint with --resume, on machines with the same "
                "processors, GPUs and PyTorch",
            )


ALONE = Workers()
"""A training in one process."""


class Follower(Run):
    """The run in all processes except the leader: they read it, and write nothing."""

    @classmethod
    def of(cls, run: Run) -> Follower:
        """Return the leader's run without its trackers, which the leader alone uses."""
        train = run.config.train.model_copy(update={"track": ()})
        return cls(run.path, run.config.model_copy(update={"train": train}), run.facts)

    def prepare_to_write(self) -> None:
        """Leave it to the leader."""

    def write_checkpoint(
        self,
        name: CheckpointName,
        checkpoint: Mapping[str, Any],  # Any: see run.Checkpoint
    ) -> None:
        """Leave it to the leader."""

    def _write_lines(self, name: str, lines: list[dict[str, Any]]) -> None:  # Any: JSON
        """Leave it to the leader."""


def own_state(owns: Sequence[Own], workers: Workers) -> Own:
    """Return the state that a process continues with, from the states of all processes.

    With the same number of processes as before, each takes its own. With another number there is
    no random state, and the leader takes all sums.
    """
    if len(owns) == workers.count:
        return owns[workers.rank]
    sums = {
        name: _added([own[name] for own in owns]) if workers.leads else {}
        for name in owns[0]
        if name != "random_state"
    }
    return {"random_state": None, **sums}


def _added(parts: Sequence[Mapping[str, N]]) -> dict[str, N]:
    """Return the sum of each name's values."""
    total: dict[str, N] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total[name] + value if name in total else value
    return total


@torch.no_grad()
def _fingerprint(module: nn.Module) -> Tensor:
    """Return (tensors,) a checksum of the bits of each weight."""
    bits = [value.contiguous().view(torch.int32) for value in _common(module)]
    return torch.stack([one.sum(dtype=torch.int64) for one in bits]).cpu()


def _common(module: nn.Module) -> list[Tensor]:
    """Return the weights that are equal in all processes: the ones that gradients move.

    The rows of a divided table are not among them.
    """
    return [value.detach() for value in module.parameters() if value.requires_grad]
