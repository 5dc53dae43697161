"""Pools of large domains: a step looks at a sample of the items, with known probabilities.

A step uses a small pool whole. From a larger one it draws items, with replacement and by the static
weights of all training clicks. The draws of a step are divided among the domains by their clicks in
it. Item i is then in the sample with the probability

    pi_i = 1 - (1 - p_i)^m,

p_i its share of the weights, m the draws. The sum of term / pi_i over the sample estimates the sum
over the pool (Horvitz & Thompson 1952). The clicks of the batch are there as well. A row's own
click counts once. A click that was not drawn has log pi = +inf, so that it has no mass for other
rows: the clicks of a window are no draws. So neither time nor memory of a step grows with the
catalogue.

Dims: N items of a domain, b clicks of it in a batch, n items of a sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossfeed.config import TrainConfig
from crossfeed.data.dataset import Dataset
from crossfeed.scorer import Ints

__all__ = ["PoolSample", "PoolSampler", "alias_table", "static_weights"]

_LEAST_DRAWS = 256
"""Fewest draws of a domain in a step; fewer would represent its pool badly."""
_MOST_POOLS = 16
"""Pools of `train.pool_items` items that a step uses whole."""


@dataclass(frozen=True)
class PoolSample:
    """The items that stand for a domain's pool in one step."""

    items: Tensor
    """(n,) item indices, ascending, without repeats."""
    log_inclusion: Tensor
    """(n,) log pi of each item, at most 0; +inf if it is there as a click alone."""


class PoolSampler:
    """Draws the samples of large domains.

    A domain is large if it has more than `train.pool_items` items. If all pools together have more
    than 16 times as many, a domain is large if it has more items than draws: each item costs time.
    """

    def __init__(self, dataset: Dataset, config: TrainConfig) -> None:
        self._config = config
        self._offsets = dataset.catalogue.offsets
        sizes = np.diff(dataset.catalogue.offsets)
        self._least = min(_LEAST_DRAWS, config.pool_items)
        many = sizes.sum() > _MOST_POOLS * config.pool_items
        large = sizes > (self._least if many else config.pool_items)
        self._tables = {
            domain: _Table(dataset.item_clicks[dataset.catalogue.pool(domain)], config)
            for domain in np.flatnonzero(large).tolist()
        }

    def draw(self, domain: int, clicks: Ints, rng: np.random.Generator) -> PoolSample | None:
        """Draw a sample; return None if the step uses the domain's pool whole.

        Args:
            domain: the target domain.
            clicks: (b,) item indices of the batch's clicks in it.
            rng: the source of the draws.
        """
        table = self._tables.get(domain)
        share = len(clicks) / self._config.batch_size
        draws = max(self._least, round(self._config.pool_items * share))
        if table is None or table.items <= draws:
            return None
        first = self._offsets[domain]
        drawn = table.draw(draws, rng)
        places = np.unique(np.concatenate([drawn, clicks - first]))
        inclusion = table.log_inclusion(places, draws=draws)
        inclusion[~np.isin(places, drawn)] = np.inf
        return PoolSample(
            torch.from_numpy(places + first), torch.from_numpy(inclusion.astype(np.float32))
        )

    def places(self, domain: int, sample: PoolSample, items: Ints) -> Ints:
        """Return the place of each item in its domain's sample; -1 if it is not in it."""
        first = self._offsets[domain]
        return self._tables[domain].places(sample.items.numpy() - first, items - first)


class _Table:
    """The tables for draws from one domain; the cost of a draw does not depend on N."""

    def __init__(self, clicks: Ints, config: TrainConfig) -> None:
        weights = static_weights(clicks, config)
        self._shares = weights / weights.sum()
        self._kept, self._aliases = alias_table(weights)
        self._places = np.full(len(clicks), -1)
        self.items = len(clicks)

    def draw(self, count: int, rng: np.random.Generator) -> Ints:
        places = rng.integers(self.items, size=count)
        return np.where(rng.random(count) < self._kept[places], places, self._aliases[places])

    def places(self, sampled: Ints, items: Ints) -> Ints:
        # A look-up beats a search: the items are many, of long histories.
        self._places[sampled] = np.arange(len(sampled))
        places = self._places[items]
        self._places[sampled] = -1
        return places

    def log_inclusion(self, places: Ints, *, draws: int) -> NDArray[np.float64]:
        missed = draws * _log_rest(self._shares[places])
        return np.asarray(np.log(-np.expm1(missed)))


def alias_table(weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], Ints]:
    """Return how to draw items by their weights in constant time.

    A place i of N is drawn uniformly. It stays with the probability `kept[i]`; otherwise it becomes
    `aliases[i]`. Light items, below the mean weight, are filled up in their order by the heavy
    items in theirs. The next heavy item fills a heavy item that is used up. Running sums of lack
    and excess pair the two without a loop.

    Args:
        weights: (N,) above 0.

    Returns:
        (N,) kept and (N,) aliases.

    Source: Walker 1977; Hubschle-Schneider & Sanders 2019, section 4.2 (construction by sweeping).
    """
    scaled = weights * (len(weights) / weights.sum())
    is_light = scaled < 1
    light, heavy = np.flatnonzero(is_light), np.flatnonzero(~is_light)
    kept, aliases = np.minimum(scaled, 1.0), np.arange(len(weights))
    if not len(light) or not len(heavy):  # all alike
        return kept, aliases
    lacking = np.concatenate([np.zeros(1), np.cumsum(1 - scaled[light])])
    over = np.cumsum(scaled[heavy] - 1)  # ends where `lacking` does, up to rounding
    filled_by = np.searchsorted(over, lacking[:-1], side="right")
    aliases[light] = heavy[np.minimum(filled_by, len(heavy) - 1)]
    given = lacking[np.searchsorted(lacking[:-1], over)]  # by each heavy and those before it
    kept[heavy[:-1]] = np.clip(1 + over - given, 0, 1)[:-1]
    aliases[heavy[:-1]] = heavy[1:]
    return kept, aliases


def static_weights(clicks: Ints, config: TrainConfig) -> NDArray[np.float64]:
    """Return (...) the static proposal's weights of items, not normalised; above 0.

    Args:
        clicks: (...) clicks of each item, in all or as of a moment.
        config: its `static_proposal` says how.
    """
    if config.static_proposal == "uniform":
        return np.ones(clicks.shape)
    return np.asarray(np.maximum(clicks, 1) ** 0.75, np.float64)


def _log_rest(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(1 - share), finite for a share of 1 too."""
    return np.asarray(np.log1p(-np.minimum(share, 1 - 1e-12)))
