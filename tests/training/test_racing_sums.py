"""No sum of a training depends on which of two threads is faster.

torch adds by index with several threads at once (`values[index]` has such a gradient, and so has
`index_put_(accumulate=True)`): where an index occurs twice, the order of the addition, and so the
last bit of the sum, changes from run to run. `index_select` and `index_add` keep the order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from planted import planted_log, small_dataset, tiny_config
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from crossfeed.config import Config
from crossfeed.data.dataset import Dataset
from crossfeed.model.users.networks import NETWORKS
from crossfeed.training.loop.trainer import train

_ATEN = torch.ops.aten
_ADDS_BY_INDEX = {
    overload
    for packet in (
        *(_ATEN.index_put, _ATEN.index_put_, _ATEN._index_put_impl_, _ATEN._unsafe_index_put),
        *(_ATEN.put, _ATEN.put_),
    )
    for overload in (getattr(packet, name) for name in packet.overloads())
}
"""torch's operators that add with several threads into places that may be the same."""


class RacingSumError(AssertionError):
    """A sum in no fixed order."""


class NoRacingSums(TorchDispatchMode):
    """Refuses sums whose order depends on threads, in the forward and in the backward pass."""

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[Any] = (),  # Any: torch's own signature
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        given = dict(kwargs or {})
        if func in _ADDS_BY_INDEX:
            names = [argument.name for argument in func._schema.arguments]  # type: ignore[attr-defined]
            by_name = dict(zip(names, args, strict=False)) | given
            _refuse_race(by_name.get("indices", by_name.get("index")), by_name)
        return func(*args, **given)


def _refuse_race(places: Tensor | Sequence[Tensor | None], given: Mapping[str, Any]) -> None:
    table = given["self"]
    if not given.get("accumulate") or table.dtype != torch.float32:
        return  # torch adds other types with one thread
    indices = [places] if isinstance(places, Tensor) else [one for one in places if one is not None]
    if any(one.dtype == torch.bool for one in indices):
        return  # a mask names no place twice
    pairs = torch.stack([one.flatten() for one in torch.broadcast_tensors(*indices)])
    if pairs.shape[1] > torch.unique(pairs, dim=1).shape[1]:
        raise RacingSumError(
            f"threads add into the same rows of {tuple(table.shape)}, in no fixed order; "
            "hint: index_select or index_add"
        )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small_dataset(planted_log(users=20), tmp_path_factory.mktemp("data") / "dataset")


TRAININGS: dict[str, dict[str, object]] = {
    "some domains": {"expand_domains": ("shopping",)},
    "whole pool": {"objective": "full-softmax", "gap": "kl"},
    "sampled pools": {"pool_items": 8},
    "rows apart": {"pool_items": 8, "dense_items": 0},
    "uniform proposals": {"static_proposal": "uniform", "gap": "euclidean"},
    "binary": {"objective": "binary", "gap": "none"},
}
CASES: list[tuple[dict[str, object], dict[str, object]]] = [
    *(({"discriminator": name, "generator": "attention"}, {}) for name in NETWORKS),
    *(({}, training) for training in TRAININGS.values()),
    ({"fuse": "residual", "table_rows": 7}, {}),
    ({"fuse": "none"}, {"proposal_share": 0.0}),
]


@pytest.mark.parametrize(("model", "training"), CASES, ids=map(str, CASES))
def test_no_training_has_a_sum_in_no_fixed_order(
    model: dict[str, object], training: dict[str, object], data: Dataset, tmp_path: Path
) -> None:
    base = tiny_config(**{"batch_size": 1024, "epochs": 2, **training})
    settings = {"model": {**base.model.model_dump(), **model}, "train": base.train.model_dump()}
    with NoRacingSums():
        train(data, out=tmp_path / "run", config=Config.model_validate(settings))


def test_the_gradient_of_an_index_that_occurs_twice_is_refused() -> None:
    table = torch.zeros(3, 2, requires_grad=True)
    with NoRacingSums():
        table[torch.tensor([0, 2])].sum().backward()  # type: ignore[no-untyped-call]
        table.index_select(0, torch.tensor([0, 0])).sum().backward()  # type: ignore[no-untyped-call]
        with pytest.raises(RacingSumError, match=r"the same rows of \(3, 2\).*hint: index_select"):
            table[torch.tensor([0, 0])].sum().backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sum_into_one_place_is_refused_where_threads_race(dtype: torch.dtype) -> None:
    rows, columns = torch.tensor([0, 0, 0]), torch.tensor([1, 2, 1])
    with NoRacingSums():
        torch.zeros(2, 3).index_put_((rows, torch.tensor([0, 1, 2])), torch.ones(3), True)
        table = torch.zeros(2, 3, dtype=dtype)
        if dtype == torch.float64:
            table.index_put_((rows, columns), torch.ones(3, dtype=dtype), accumulate=True)
            assert table[0].tolist() == [0.0, 2.0, 1.0]
            return
        with pytest.raises(RacingSumError, match=r"the same rows of \(2, 3\)"):
            table.index_put_((rows, columns), torch.ones(3), accumulate=True)
        with pytest.raises(RacingSumError):
            table.put_(torch.tensor([4, 4]), torch.ones(2), accumulate=True)
