"""Batches of training clicks, assembled from the dataset without a loop over events.

Dims: B clicks, S pairs of (row, seen item).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from crossfeed.config import Config, ModelConfig
from crossfeed.data.dataset import Dataset, Part
from crossfeed.model.timelines import Timelines, build_timelines
from crossfeed.scorer import Catalogue, Histories, Ints

__all__ = ["Batch", "DomainRows", "batches", "steps_per_epoch"]


@dataclass(frozen=True)
class DomainRows:
    """The rows of a batch whose target is one domain; they are neighbours."""

    domain: int
    name: str
    rows: slice
    pool: slice
    clicks: Tensor
    """(b,) position in the pool of each row's click."""
    seen: tuple[Tensor, Tensor]
    """Row within `rows` and position in the pool of what the user saw before, click excepted;
    no pair twice. It is no candidate."""


@dataclass(frozen=True)
class Batch:
    """Clicks of training with what was known of their users just before."""

    epoch: int
    step: int
    timelines: Timelines
    groups: tuple[DomainRows, ...]
    """The rows by target domain, in the order of the rows."""

    @property
    def rows(self) -> int:
        """Return B."""
        return self.timelines.rows

    def by_domain(self, values: Tensor) -> tuple[Tensor, ...]:
        """Return the rows of `values` (B, ...) of each of the groups."""
        sizes = [len(group.clicks) for group in self.groups]
        return torch.split(values, sizes)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device."""
        groups = tuple(
            replace(
                group,
                clicks=group.clicks.to(device),
                seen=(group.seen[0].to(device), group.seen[1].to(device)),
            )
            for group in self.groups
        )
        return replace(self, timelines=self.timelines.to(device), groups=groups)


def steps_per_epoch(clicks: int, config: Config) -> int:
    """Return the number of batches in one pass over the training clicks."""
    return -(-clicks // config.train.batch_size)


def batches(
    dataset: Dataset, config: Config, *, clicks: Ints, epoch: int, first_step: int = 0
) -> Iterator[Batch]:
    """Yield one epoch's batches from `first_step` on.

    The order of the clicks depends on (seed, epoch) and what is masked on (seed, epoch, step)
    alone, so that a resumed epoch goes on with the very batches that it would have had.
    """
    seed = config.train.seed
    order = np.random.default_rng([seed, epoch]).permutation(clicks)
    for step in range(first_step, steps_per_epoch(len(clicks), config)):
        events = order[step * config.train.batch_size : (step + 1) * config.train.batch_size]
        timelines, groups = _assemble(
            dataset, config, np.sort(events), np.random.default_rng([seed, epoch, step])
        )
        yield Batch(epoch, step, timelines, groups)


def _assemble(
    dataset: Dataset, config: Config, events: Ints, rng: np.random.Generator
) -> tuple[Timelines, tuple[DomainRows, ...]]:
    domains = dataset.event_domain[events].astype(np.int64)
    order = np.argsort(domains, kind="stable")
    events, domains = events[order], domains[order]
    histories = dataset.histories(events, Part.TRAIN)
    timelines = build_timelines(
        mask(histories, domains, catalogue=dataset.catalogue, config=config.model, rng=rng),
        domains,
        catalogue=dataset.catalogue,
        config=config.model,
    )
    return timelines, _by_domain(dataset, events, domains, histories)


def mask(
    histories: Histories,
    domains: Ints,
    *,
    catalogue: Catalogue,
    config: ModelConfig,
    rng: np.random.Generator,
) -> Histories:
    """Hide a share of all events, and a further share of those in each row's target domain."""
    rows = histories.rows()
    in_target = catalogue.domain_of(histories.items) == domains[rows]
    shown = rng.random(len(rows)) >= config.drop_share
    return histories.where(shown & ~(in_target & (rng.random(len(rows)) < config.mask_share)))


def _by_domain(
    dataset: Dataset, events: Ints, domains: Ints, histories: Histories
) -> tuple[DomainRows, ...]:
    clicks = dataset.event_item[events].astype(np.int64)
    rows = histories.rows()
    of_target = dataset.catalogue.domain_of(histories.items) == domains[rows]
    seen_rows, seen_items = rows[of_target], histories.items[of_target]
    if dataset.config.repeats == "keep":  # the click may have been seen before, or others twice
        other = seen_items != clicks[seen_rows]
        pairs = np.unique(np.stack([seen_rows[other], seen_items[other]]), axis=1)
        seen_rows, seen_items = pairs
    present, firsts = np.unique(domains, return_index=True)
    bounds = [*firsts.tolist(), len(domains)]
    groups = []
    for domain, first, last in zip(present.tolist(), bounds[:-1], bounds[1:], strict=True):
        pool = dataset.catalogue.pool(domain)
        begin, end = np.searchsorted(seen_rows, [first, last])
        groups.append(
            DomainRows(
                domain=domain,
                name=dataset.catalogue.domains[domain],
                rows=slice(first, last),
                pool=pool,
                clicks=torch.from_numpy(clicks[first:last] - pool.start),
                seen=(
                    torch.from_numpy(seen_rows[begin:end] - first),
                    torch.from_numpy(seen_items[begin:end] - pool.start),
                ),
            )
        )
    return tuple(groups)
