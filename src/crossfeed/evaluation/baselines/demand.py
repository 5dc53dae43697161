"""Learned demand: the best that a model without any user can do by everybody's earlier clicks.

The players use the same function (`crossfeed.model.demand`). It maximises the likelihood of
training clicks among the items of their domain that existed before their window of time.

Dims: W windows, N items of a pool, n items of a window, F features of demand, B histories.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from crossfeed.data.dataset import Dataset, Part
from crossfeed.data.dataset.windows import Windows, windows_of
from crossfeed.data.demand import FEATURES
from crossfeed.evaluation.baselines.baseline import Trials
from crossfeed.scorer import Floats, Histories, Moment

if TYPE_CHECKING:  # torch is loaded when it is fitted, not before
    import torch

    from crossfeed.model.demand import DemandFunction

__all__ = ["LearnedDemand"]

_PASSES = 8
"""Passes over the windows."""
_WINDOWS = 2048
"""Most windows; more teach a function of so few weights nothing new."""
_AT_ONCE = 32
"""Windows of one step."""
_CELLS = 16_384
"""Items of windows that are padded to one size together: those of about the same size."""
_RANGE = 256
"""Windows that tell the range of the features."""
_ITEMS = 1024
"""Most items of a window besides the clicked ones; of a larger pool as many are drawn. All windows
together take at most 110 MB."""
_RATE = 0.02
"""Step size at the start; it falls to zero along a half cosine."""


class LearnedDemand:
    """Score an item by its demand alone, the same for every user."""

    name: ClassVar[str] = "demand"

    def __init__(self, dataset: Dataset, *, seed: int = 0) -> None:
        """Learn from the training part; `seed` draws windows and first weights."""
        self.function = _fitted(dataset, seed)

    @classmethod
    def trials(cls) -> Trials:
        """Return the only setting."""
        return {"": cls}

    @classmethod
    def check(cls, dataset: Dataset) -> None:
        """Refuse nothing."""

    def score(self, histories: Histories, domain: int, moment: Moment) -> Floats:
        """Return (B, N) the score of each item of the domain's pool; higher is better."""
        import torch

        demand = torch.from_numpy(moment.demand(domain).astype(np.float32))
        with torch.no_grad():
            scores = self.function(demand.unsqueeze(0), torch.tensor([domain]))
        return np.repeat(scores.numpy(), len(histories), axis=0)


def _fitted(dataset: Dataset, seed: int) -> DemandFunction:
    import torch

    from crossfeed.model.demand import DemandFunction

    rng = np.random.default_rng(seed)
    learned = dataset.learned_events
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        function = DemandFunction(domains=len(dataset.catalogue.domains)).requires_grad_(False)
    if not len(learned):
        return function
    pools = _pools(dataset, windows_of(dataset, learned, rng=rng), rng)
    if not pools:  # nobody clicks what existed
        return function
    function.fit_range(torch.from_numpy(np.concatenate([pool.demand for pool in pools[:_RANGE]])))
    function.requires_grad_(True)
    optimiser = torch.optim.Adam(function.parameters(), lr=_RATE)
    orders = [rng.permutation(len(pools)) for _ in range(_PASSES)]
    steps = [part for order in orders for part in np.array_split(order, -(-len(order) // _AT_ONCE))]
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, len(steps))
    for chosen in steps:
        together = sorted((pools[place] for place in chosen), key=lambda pool: len(pool.clicks))
        optimiser.zero_grad()
        clicks = sum(float(pool.clicks.sum()) for pool in together)
        for alike in _by_size(together):
            loss = _loss(function, alike) / clicks
            loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        plan.step()
    return function.requires_grad_(False)


@dataclass(frozen=True)
class _Pool:
    """The items of a domain that existed before a window, or a sample of them."""

    domain: int
    demand: Floats
    """(n, F)"""
    clicks: Floats
    """(n,) of each item in the window."""
    log_weights: Floats
    """(n,) log of how many items of the pool each stands for."""


def _by_size(pools: Sequence[_Pool]) -> Iterator[list[_Pool]]:
    """Divide pools, the smallest first, into groups of about `_CELLS` items with their padding."""
    group: list[_Pool] = []
    for pool in pools:
        if group and (len(group) + 1) * len(pool.clicks) > _CELLS:
            yield group
            group = []
        group.append(pool)
    if group:
        yield group


def _loss(function: DemandFunction, pools: Sequence[_Pool]) -> torch.Tensor:
    """Return minus the summed log-likelihood of the clicks of some windows."""
    import torch

    shape = len(pools), max(len(pool.clicks) for pool in pools)
    demand = np.zeros((*shape, FEATURES), np.float32)
    clicks, log_weights = np.zeros(shape, np.float32), np.full(shape, -np.inf, np.float32)
    for row, pool in enumerate(pools):
        size = len(pool.clicks)
        demand[row, :size], clicks[row, :size] = pool.demand, pool.clicks
        log_weights[row, :size] = pool.log_weights
    biases = function(torch.from_numpy(demand), torch.tensor([pool.domain for pool in pools]))
    normaliser = (biases + torch.from_numpy(log_weights)).logsumexp(-1, keepdim=True)
    loss: torch.Tensor = (torch.from_numpy(clicks) * (normaliser - biases)).sum()
    return loss


def _pools(dataset: Dataset, windows: Windows, rng: np.random.Generator) -> list[_Pool]:
    """Return the pools of some windows, without windows whose clicks are all on new items."""
    chosen = rng.permutation(len(windows))[:_WINDOWS]
    pools = (_pool(dataset, windows, window, rng) for window in chosen.tolist())
    return [pool for pool in pools if pool is not None]


def _pool(
    dataset: Dataset, windows: Windows, window: int, rng: np.random.Generator
) -> _Pool | None:
    domain = int(windows.domains[window])
    history = dataset.demand_history(domain, Part.TRAIN)
    pool = dataset.catalogue.pool(domain)
    before = history.before(windows.times[window])
    places = np.arange(pool.stop - pool.start)
    exists = history.clicks(places, before) > 0
    events = windows.events[windows.offsets[window] : windows.offsets[window + 1]]
    clicks = np.bincount(dataset.event_item[events] - pool.start, minlength=len(places))
    clicked = np.flatnonzero(exists & (clicks > 0))
    if not len(clicked):
        return None
    others = np.flatnonzero(exists & (clicks == 0))
    each = max(1.0, len(others) / _ITEMS)
    if each > 1:
        others = np.sort(rng.choice(others, _ITEMS, replace=False))
    chosen = np.concatenate([clicked, others])
    log_weights = np.repeat([0.0, np.log(each)], [len(clicked), len(others)])
    demand = history.demand(chosen, before)[0]
    return _Pool(domain, *(one.astype(np.float32) for one in (demand, clicks[chosen], log_weights)))
