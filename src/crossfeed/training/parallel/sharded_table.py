"""An item table whose rows are divided among the processes, by TorchRec.

Every process holds I / W rows and asks the others for the rows that it looks up. Their gradients go
back the same way, and row-wise Adagrad moves the rows in their process during the backward pass.
So neither the table nor its optimiser's state has to fit into one process, and a step exchanges the
looked-up rows instead of the whole table's gradient.

Dims: I items, E width, W processes, R = I / W rows of one process.
"""

from __future__ import annotations

import copy
import logging
from importlib.util import find_spec
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from crossfeed.errors import ConfigError, MissingExtraError

__all__ = ["TABLE_LEARNING_RATE", "RowOptimiser", "ShardedTable", "require_row_sharding"]

TABLE_LEARNING_RATE = 0.1
"""Step size of the row-wise Adagrad that moves divided rows."""

_TABLE, _IDS = "item_vectors", "ids"  # TorchRec's names of the table and of the looked-up ids
_EPSILON = 1e-8


def require_row_sharding(processes: int) -> None:
    """Check that rows can be divided, before any work.

    Raises:
        ConfigError: there is one process.
        MissingExtraError: TorchRec is not installed.
    """
    if processes == 1:
        raise ConfigError(
            "train.table_sharding='row' divides a table among several processes; there is one",
            hint="start several with torchrun, or set train.table_sharding=none",
        )
    for package in ("torchrec", "fbgemm_gpu"):
        if find_spec(package) is None:
            raise MissingExtraError(package=package, extra="distributed")


class ShardedTable(nn.Module):
    """Stands for an `nn.Embedding` whose rows are divided among the processes.

    All processes must look up, and take the state, equally often and in the same order. In a
    state_dict it is the whole table, as if it were not divided. A deep copy, as an average of
    weights is, holds this process's rows and looks nothing up.
    """

    sparse = True
    """No gradient of the whole table is ever made."""
    rows: nn.Parameter
    """(R, E) the rows of this process; moved by the optimiser below, never by autograd's."""

    def __init__(self, whole: nn.Embedding, *, learning_rate: float) -> None:
        """Take the rows of this process from a table that is equal in all processes."""
        super().__init__()
        self.items, self.width = whole.weight.shape
        collection = _shard(whole, learning_rate=learning_rate)
        self._hidden = [collection]  # from torch, to which `rows` stands for it
        (own,) = collection.parameters()
        self.rows = nn.Parameter(own.data, requires_grad=False)  # the same memory
        per_process = -(-self.items // dist.get_world_size())
        self.first = min(dist.get_rank() * per_process, self.items)

    def forward(self, ids: Tensor) -> Tensor:
        """Return (..., E) the vectors of items (...), each row asked for once."""
        from torchrec import KeyedJaggedTensor

        unique, inverse = torch.unique(ids, return_inverse=True)
        lengths = torch.tensor([len(unique)], device=ids.device)
        asked = KeyedJaggedTensor(keys=[_IDS], values=unique, lengths=lengths)
        (collection,) = self._hidden
        rows: Tensor = collection(asked).wait()[_IDS].values()
        return rows.index_select(0, inverse.flatten()).reshape(*ids.shape, self.width)

    def gather(self, own: Tensor) -> Tensor:
        """Return (I, ...) what all processes hold of something with a row per item, (R, ...)."""
        per_process = -(-self.items // dist.get_world_size())
        padded = own.new_zeros(per_process, *own.shape[1:])
        padded[: len(own)] = own
        whole = own.new_empty(per_process * dist.get_world_size(), *own.shape[1:])
        dist.all_gather(list(whole.chunk(dist.get_world_size())), padded)
        return whole[: self.items]

    def own(self, whole: Tensor) -> Tensor:
        """Return (R, ...) this process's part of something with a row per item, (I, ...)."""
        return whole[self.first : self.first + len(self.rows)]

    def optimiser(self) -> RowOptimiser:
        """Return the optimiser of the rows."""
        (collection,) = self._hidden
        return RowOptimiser(self, collection.fused_optimizer)

    def __deepcopy__(self, memo: dict[int, Any]) -> ShardedTable:
        made = ShardedTable.__new__(ShardedTable)
        nn.Module.__init__(made)
        made.items, made.width, made.first = self.items, self.width, self.first
        made._hidden = []
        made.rows = copy.deepcopy(self.rows, memo)
        return made

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        destination[f"{prefix}weight"] = self.gather(self.rows.detach())

    @torch.no_grad()
    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *unused: object
    ) -> None:
        self.rows.copy_(self.own(state_dict[f"{prefix}weight"]))


class RowOptimiser:
    """Row-wise Adagrad of a divided table, with the state for checkpoints.

    Source: Duchi et al. 2011, with one accumulator per row, the mean of its squared gradients.
    """

    def __init__(self, table: ShardedTable, fused: Any) -> None:  # Any: TorchRec has no types
        self._table, self._fused = table, fused

    def state_dict(self) -> dict[str, Any]:  # Any: see run.Checkpoint
        """Return the step size, and the accumulators (I,) of the whole table."""
        (rate,) = {group["lr"] for group in self._fused.param_groups}
        accumulators = self._table.gather(self._accumulators())
        return {"learning_rate": rate, "accumulators": accumulators}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # Any: see run.Checkpoint
        """Load this process's part of the result of `state_dict`."""
        self.set_learning_rate(state["learning_rate"])
        self._accumulators().copy_(self._table.own(state["accumulators"]))

    def set_learning_rate(self, rate: float) -> None:
        """Set the step size of all steps that follow."""
        for group in self._fused.param_groups:
            group["lr"] = rate
        self._fused.step()  # tells the kernel, and moves nothing

    def _accumulators(self) -> Tensor:
        ((accumulators,),) = (state.values() for state in self._fused.state.values())
        (own,) = accumulators.local_shards()
        return own.tensor  # type: ignore[no-any-return] # (R,)


def _shard(whole: nn.Embedding, *, learning_rate: float) -> Any:  # Any: TorchRec has no types
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from torchrec import EmbeddingCollection
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.embedding_types import EmbeddingComputeKernel
    from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
    from torchrec.distributed.types import ShardingEnv
    from torchrec.modules.embedding_configs import EmbeddingConfig

    # It warns about TorchRec's own code, once in each process.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    items, width = whole.weight.shape
    device, processes = whole.weight.device, dist.get_world_size()
    table = EmbeddingConfig(
        name=_TABLE, embedding_dim=width, num_embeddings=items, feature_names=[_IDS]
    )
    with torch.random.fork_rng():  # it draws weights that are replaced
        collection = EmbeddingCollection(tables=[table], device=device)
    collection.embeddings[_TABLE].weight.data.copy_(whole.weight.data)
    sharder = EmbeddingCollectionSharder(
        fused_params={
            "optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            "learning_rate": learning_rate,
            "eps": _EPSILON,
        }
    )
    # Of TorchRec's kernels this one alone looks sequences up on a CPU.
    kernel = EmbeddingComputeKernel.FUSED.value
    plan = construct_module_sharding_plan(
        collection,
        {_TABLE: row_wise(compute_kernel=kernel)},
        sharder=sharder,
        local_size=processes,
        world_size=processes,
        device_type=device.type,
    )
    env = ShardingEnv.from_process_group(dist.group.WORLD)
    with torch.random.fork_rng():
        return sharder.shard(collection, plan, env, device=device)
