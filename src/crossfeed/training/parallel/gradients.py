"""The mean of a player's gradients over several processes.

Small gradients travel as one message, large ones as one each, sparse ones as their rows alone: for
a table of 300,000 x 64 values that is a tenth of the time.

Dims: W processes, P parameters, n rows of a table that one process has gradients for, E width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["average_gradients", "gather_tensors"]

_LARGE = 1 << 16
"""Fewest values of a gradient that is a message of its own."""
_NONE, _DENSE = -2, -1
"""Stands for the number of rows of a missing or dense gradient."""


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter], *, rows: int) -> None:
    """Replace gradients by their mean over the rows of all processes' batches.

    A missing gradient counts as zero. A gradient that no process has stays missing, so its
    parameter is not updated, as in a single process.

    Args:
        parameters: the same in every process.
        rows: clicks in this process's batch, the weight of its gradients.
    """
    # Which gradients there are, and how many rows, may differ by batch: all tell this first.
    for value in parameters:
        if value.grad is not None and value.grad.is_sparse:
            value.grad = value.grad.coalesce()  # each row once
    counts = [rows, *(_stored_rows(value.grad) for value in parameters)]
    told = gather_tensors(torch.tensor(counts))  # (W, 1 + P)
    share = rows / int(told[:, 0].sum())
    dense: list[Tensor] = []
    for value, stored in zip(parameters, told[:, 1:].T, strict=True):
        if bool((stored >= 0).any()):
            value.grad = _add_sparse(value, stored.clamp_min(0).tolist(), share)
        elif bool((stored == _DENSE).any()):
            value.grad = torch.zeros_like(value) if value.grad is None else value.grad.mul_(share)
            dense.append(value.grad)
    _add_dense(dense)


def gather_tensors(own: Tensor) -> Tensor:
    """Return (W, ...) the tensors of all processes, which must be of one shape."""
    told = own.new_empty(dist.get_world_size(), *own.shape)
    dist.all_gather(list(told.unbind()), own)
    return told


def _stored_rows(gradient: Tensor | None) -> int:
    if gradient is None:
        return _NONE
    return gradient._nnz() if gradient.is_sparse else _DENSE


def _add_dense(gradients: Sequence[Tensor]) -> None:
    """Replace each gradient by its sum over the processes."""
    pending = [dist.all_reduce(one, async_op=True) for one in gradients if one.numel() >= _LARGE]
    small = [one for one in gradients if one.numel() < _LARGE]
    if small:
        together = torch.cat([one.flatten() for one in small])
        dist.all_reduce(together)
        parts = torch.split(together, [one.numel() for one in small])
        for one, summed in zip(small, parts, strict=True):
            one.copy_(summed.view_as(one))
    for work in pending:
        work.wait()


def _add_sparse(value: nn.Parameter, stored: Sequence[int], share: float) -> Tensor:
    """Return the sum over the processes of a table's sparse gradients.

    Args:
        value: the table; its own gradient may be missing.
        stored: (W,) how many rows the gradient of each process has.
        share: weight of the own gradient.
    """
    width, most = value.shape[1:], max(stored)
    places = torch.zeros(most, dtype=torch.int64, device=value.device)
    values = value.new_zeros(most, *width)
    if value.grad is not None:
        count = value.grad._nnz()
        places[:count] = value.grad._indices()[0]
        values[:count] = value.grad._values() * share
    all_places, all_values = gather_tensors(places), gather_tensors(values)
    kept = torch.arange(most, device=value.device) < torch.tensor(
        stored, device=value.device
    ).unsqueeze(1)  # (W, n)
    # Sorted and summed in the order of the processes: the same bits everywhere.
    return torch.sparse_coo_tensor(
        all_places[kept].unsqueeze(0), all_values[kept], value.shape, check_invariants=False
    ).coalesce()
