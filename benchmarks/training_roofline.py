"""How near a training step is to what the machine can do, operator by operator.

    python benchmarks/training_roofline.py DATA STEPS [--set k=v ...]

The rates of the machine are measured in the same process: a product of matrices, a copy of a large
array, a gather of rows from a table as large as the catalogue. Every operator of a step then has a
bound: the larger of its operations at the matrix rate and of its bytes, those that it looks up or
scatters by index at the rate of the gather, the others at that of the copy. All times are the
training thread's own, and the least of some tries, so that other work on the machine counts less.
Prints JSON.

A bound counts every byte as if it came from memory, which is too much for what a cache holds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from training_contestants import WARM, Enough, LimitedFit, Stopwatch, limited_fit, load

from crossfeed.config import load_config
from crossfeed.data.dataset import Dataset

LOOKUPS = {"embedding", "gather", "index", "index_select"}
"""Operators that read by index: what comes out is what is moved."""
SCATTERS = {
    "embedding_dense_backward": 0,
    "index_add": -1,
    "index_add_": -1,
    "index_copy": -1,
    "index_copy_": -1,
    "index_put": -1,
    "index_put_": -1,
    "_index_put_impl_": -1,
    "scatter": -1,
    "scatter_add": -1,
    "scatter_add_": -1,
    "scatter_reduce": -1,
}
"""Operators that write by index -> which of their tensors is what is moved."""
SHOWN = 15
TRIES = 3

Json = dict[str, Any]


def rates(items: int, width: int) -> dict[str, float]:
    """Measure operations and bytes per second of this machine, by the best of some tries."""
    a, b = torch.randn(2, 1024, 1024)
    source, target = torch.randn(2, 32 << 20)  # 128 MiB each: no cache holds them
    table, rows = torch.randn(items, width), torch.randint(items, (1 << 18,))
    gathered = table[rows]
    return {
        "operations": 2 * 1024**3 / _best(lambda: torch.mm(a, b)),
        "copied bytes": 2 * source.nbytes / _best(lambda: target.copy_(source)),
        "gathered bytes": 2 * gathered.nbytes
        / _best(lambda: torch.index_select(table, 0, rows, out=gathered)),
    }  # fmt: skip


def _best(work: Callable[[], object], tries: int = 9) -> float:
    taken = []
    for _ in range(tries):
        began = time.thread_time()
        work()
        taken.append(time.thread_time() - began)
    return min(taken)


class Bounds(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations and bytes of every operator that runs while it is on."""

    def __init__(self, rate: dict[str, float]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rate = rate
        self.taken: dict[str, float] = defaultdict(float)
        self.compute: dict[str, float] = defaultdict(float)
        self.memory: dict[str, float] = defaultdict(float)
        self.bound: dict[str, float] = defaultdict(float)

    def __torch_dispatch__(
        self,
        func: Any,  # Any: torch's own overloads, which have no public type
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operator and count it."""
        began = time.thread_time()
        found = func(*args, **(kwargs or {}))
        taken = time.thread_time() - began
        name = func._overloadpacket.__name__
        self.taken[name] += taken
        inputs, outputs = _tensors((args, kwargs)), _tensors(found)
        if not func._schema.is_mutable and _is_view(inputs, outputs):
            return found
        compute = self._operations(func, args, kwargs or {}, found) / self.rate["operations"]
        memory = self._seconds(name, func._schema.is_mutable, inputs, outputs)
        self.compute[name] += compute
        self.memory[name] += memory
        self.bound[name] += max(compute, memory)
        return found

    def _operations(self, func: Any, args: Any, kwargs: Any, found: Any) -> float:
        count = flop_registry.get(func._overloadpacket)
        return float(count(*args, **kwargs, out_val=found)) if count else 0.0

    def _seconds(
        self, name: str, mutates: bool, inputs: list[Tensor], outputs: list[Tensor]
    ) -> float:
        """Return the seconds that moving the operator's bytes takes at least."""
        if name.startswith(("empty", "new_empty")):
            return 0.0
        gathered, copied = self.rate["gathered bytes"], self.rate["copied bytes"]
        if name in LOOKUPS:
            return 2 * _bytes(outputs[0]) / gathered
        if name in SCATTERS:  # what is in place is read, added to and written
            whole = 0 if mutates else _bytes(outputs[0])
            return 3 * _bytes(inputs[SCATTERS[name]]) / gathered + whole / copied
        streamed = sum(map(_bytes, inputs)) + sum(map(_bytes, outputs))
        return streamed / copied


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _bytes(tensor: Tensor) -> int:
    """Return the bytes that a tensor has, a repeated one only once."""
    if tensor.layout is not torch.strided:
        return int(tensor._values().nbytes + tensor._indices().nbytes)
    repeats = [n for n, step in zip(tensor.shape, tensor.stride(), strict=True) if step == 0 and n]
    once = tensor.nbytes
    for count in repeats:
        once //= count
    return once


def _is_view(inputs: list[Tensor], outputs: list[Tensor]) -> bool:
    """Return whether nothing was moved: what comes out lies where something came in."""
    mine = {tensor.untyped_storage().data_ptr() for tensor in inputs if _is_plain(tensor)}
    return bool(outputs) and all(
        _is_plain(tensor) and tensor.untyped_storage().data_ptr() in mine for tensor in outputs
    )


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and tensor.numel() > 0


class ThreadStopwatch(Stopwatch):
    """Times the training thread alone."""

    def tick(self) -> None:
        """Note the end of a step."""
        if self.done + 1 == self.warm:
            self._thread = time.thread_time()
        try:
            super().tick()
        finally:
            self.thread = time.thread_time() - getattr(self, "_thread", 0.0)


def roofline(dataset: Dataset, steps: int, settings: Sequence[str]) -> Json:
    """Measure a step, its operators and their bounds."""
    config = load_config(overrides=["train.warmup_epochs=0", *settings])
    rate = rates(dataset.catalogue.items, config.model.width)
    with tempfile.TemporaryDirectory() as out:

        def fit() -> LimitedFit:
            return limited_fit(dataset, config, ThreadStopwatch(steps), Path(out) / "run")

        tries, alone = [], float("inf")
        for _ in range(TRIES):  # what else the machine does can only add to both
            alone = min(alone, _run(fit()))
            tries.append(Bounds(rate))
            with tries[-1]:
                _run(fit())
    bounds = min(tries, key=lambda one: sum(one.taken.values()))
    every = steps + WARM  # bounds have the first steps too
    step = alone / steps
    return {
        "rates": {name: round(value / 1e9, 2) for name, value in rate.items()},
        "step_seconds": round(step, 5),
        "operators_seconds": round(sum(bounds.taken.values()) / every, 5),
        "bound_seconds": round(sum(bounds.bound.values()) / every, 5),
        "share": round(sum(bounds.bound.values()) / every / step, 4),
        "operators": _operators(bounds, every),
    }


def _run(fit: LimitedFit) -> float:
    """Run a fit; return the seconds of the training thread."""
    try:
        fit.go_on()
    except Enough:
        pass
    assert isinstance(fit.stopwatch, ThreadStopwatch)
    return fit.stopwatch.thread


def _operators(bounds: Bounds, steps: int) -> list[Json]:
    """Return the operators that took most, and what bounds each, in milliseconds of a step."""
    return [
        {
            "operator": name,
            "milliseconds": round(1e3 * seconds / steps, 3),
            "bound": round(1e3 * bounds.bound[name] / steps, 3),
            "by": "compute"
            if bounds.compute[name] > bounds.memory[name]
            else "gather"
            if name in LOOKUPS or name in SCATTERS
            else "memory",
        }
        for name, seconds in sorted(bounds.taken.items(), key=lambda one: -one[1])[:SHOWN]
    ]


def main() -> None:
    """Read the command line and print what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("steps", type=int)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    given = parser.parse_args()
    print(json.dumps(roofline(load(given.data), given.steps, given.settings)))


if __name__ == "__main__":
    main()
