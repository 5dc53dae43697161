"""How the processes that torchrun started become one training, and how all of them end.

An error that all processes meet is shown once. One of the others names a lost process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from datetime import timedelta
from types import FrameType
from typing import NoReturn

import torch
import torch.distributed as dist

# The default group of its functions is bound at import. Imported later, they would keep a real
# group alive, with threads that must not outlive the interpreter.
import torch.distributed.nn.functional

from crossfeed.errors import ConfigError, CrossfeedError
from crossfeed.training.parallel.distributed import ALONE, Workers
from crossfeed.training.parallel.roll_call import RollCall

__all__ = ["joined"]

_WAIT = timedelta(minutes=30)
"""The longest that a process waits in an exchange. A process that dies breaks its connections, and
torchrun ends the others; this is for a machine that falls silent."""


@contextlib.contextmanager
def joined() -> Iterator[Workers]:
    """Join the processes that torchrun started with this one, until the end of the block.

    Without torchrun's environment, or with one process, the training runs alone. A process that has
    already joined stays joined.

    Raises:
        ConfigError: the environment is not complete.
        WorkerLostError: a process died; only the first of the others raises it.
        SystemExit: with 1, in processes that end after another one has said why.
    """
    if dist.is_available() and dist.is_initialized():
        yield Workers(dist.get_rank(), dist.get_world_size(), _local_rank())
        return
    workers = _of_environment(os.environ)
    if workers.count == 1:
        yield workers
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=_WAIT)
    with _ending(RollCall(rank=workers.rank, count=workers.count)):
        yield workers
        # Unlike an exchange it has no tensor. gloo's threads release tensors a little later, which
        # aborts an interpreter that is ending.
        dist.barrier()
        dist.destroy_process_group()


@contextlib.contextmanager
def _ending(roll_call: RollCall) -> Iterator[None]:
    """Say once, and by one process, why all end."""

    def terminated(number: int, frame: FrameType | None) -> None:
        # torchrun ends the others when one has died; then that is the reason to be shown.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _leave(roll_call, SystemExit(143))

    in_main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, terminated) if in_main else None
    try:
        yield
    except CrossfeedError as error:
        _raise_once(roll_call, error)
    except RuntimeError as error:  # torch raises it when an exchange fails, among other things
        if in_main:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _leave(roll_call, error)
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, previous)


def _leave(roll_call: RollCall, error: BaseException) -> NoReturn:
    """End because a process was lost, if one was; by `error` otherwise."""
    lost = roll_call.find_lost()
    if lost is None:
        raise error
    _raise_once(roll_call, lost)


def _raise_once(roll_call: RollCall, error: CrossfeedError) -> NoReturn:
    if roll_call.speaks():
        raise error
    raise SystemExit(1)


def _of_environment(environment: Mapping[str, str]) -> Workers:
    count = environment.get("WORLD_SIZE", "1")
    if count == "1":
        return ALONE
    needed = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if not environment.get(name)]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE={count} asks for several processes, but {', '.join(missing)} is not set",
            hint="start them with torchrun, which sets all of them, or unset WORLD_SIZE",
        )
    return Workers(int(environment["RANK"]), int(count), _local_rank())


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))
