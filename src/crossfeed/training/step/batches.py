"""Batches of training clicks, assembled from the dataset without a loop over events.

Dims: B clicks, S pairs of (row, seen item).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossfeed.config import Config, ModelConfig
from crossfeed.data.dataset import Dataset, Part
from crossfeed.model.users.grouping import trimmed
from crossfeed.model.users.timelines import Timelines, build_timelines
from crossfeed.scorer import Catalogue, Histories, Ints
from crossfeed.training.parallel.distributed import Share, steps_per_epoch
from crossfeed.training.step.device_copies import moved
from crossfeed.training.step.pool_groups import DomainRows, PoolGroup, stack
from crossfeed.training.step.pool_sampling import PoolSampler

__all__ = ["Batch", "batches", "prefetched"]

_AHEAD = 2
"""Batches that are made ahead of their steps."""
_CLICKS_AT_ONCE = 2**16
"""Clicks of untrimmed histories that are processed together, so that they fit a cache."""


@dataclass(frozen=True)
class Batch:
    """Training clicks with their users' histories just before them."""

    epoch: int
    step: int
    timelines: Timelines
    times: Tensor
    """(B,) when each click was, in milliseconds since 1970."""
    groups: tuple[PoolGroup, ...]
    """The rows by target domain: single domains in the order of the rows, or stacks."""
    stacking: tuple[Tensor, Tensor] | None = None
    """For stacks: (P,) the batch's row for each of their rows, and (B,) the place of each row of
    the batch among these."""

    @property
    def rows(self) -> int:
        """Return B."""
        return self.timelines.rows

    @property
    def domain_names(self) -> dict[int, str]:
        """Return the names of the rows' domains, by their numbers."""
        return {
            domain: name
            for group in self.groups
            for domain, name in zip(group.domains, group.names, strict=True)
        }

    def by_domain(self, values: Tensor) -> list[Tensor]:
        """Return each group's rows of `values` (B, ...), in the shape of its clicks."""
        if self.stacking is not None:
            values = values.index_select(0, self.stacking[0])
        parts = torch.split(values, [group.clicks.numel() for group in self.groups])
        return [
            part.view(*group.clicks.shape, *values.shape[1:])
            for group, part in zip(self.groups, parts, strict=True)
        ]

    def together(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the groups' rows in the order of the batch (B, ...): undo `by_domain`."""
        joined = torch.cat(
            [
                part.flatten(0, group.clicks.ndim - 1)
                for group, part in zip(self.groups, parts, strict=True)
            ]
        )
        return joined if self.stacking is None else joined.index_select(0, self.stacking[1])

    def looked_up(self) -> Tensor:
        """Return (n,) the items of histories and pools that a step uses, without repeats."""
        items = [self.timelines.items]
        for group in self.groups:
            pool = group.items
            if isinstance(pool, slice):
                pool = torch.arange(pool.start, pool.stop, device=self.times.device)
            items.append(pool.flatten())
        items_once: Tensor = torch.cat(items).unique()  # type: ignore[no-untyped-call]
        return items_once

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device."""
        if device == self.timelines.items.device:
            return self
        positions = [getattr(self.timelines, field.name) for field in fields(Timelines)]
        positions += [self.times, *(self.stacking or ())]
        positions += [each for group in self.groups for each in group.positions()]
        there = iter(moved(positions, device))
        shares = iter(moved([each for group in self.groups for each in group.shares()], device))
        return replace(
            self,
            timelines=Timelines(**{field.name: next(there) for field in fields(Timelines)}),
            times=next(there),
            stacking=self.stacking and (next(there), next(there)),
            groups=tuple(group.with_tensors(there, shares) for group in self.groups),
        )


def batches(
    dataset: Dataset,
    config: Config,
    *,
    clicks: Ints,
    epoch: int,
    first_step: int = 0,
    share: Share | None = None,
    stacked: bool = False,
) -> Iterator[Batch]:
    """Yield one epoch's batches of the clicks from `first_step` on; `stacked` is for a GPU.

    The order of the clicks depends only on (seed, epoch), and the masks on (seed, epoch, step). So
    a resumed epoch continues with the same batches as an uninterrupted one.
    """
    seed, steps = [config.train.seed], steps_per_epoch(len(clicks), config)
    size: float = config.train.batch_size
    if share is not None:
        seed, steps, size = [*seed, share.rank], share.steps, len(clicks) / share.steps
    sampler = PoolSampler(dataset, config.train)
    order = np.random.default_rng([*seed, epoch]).permutation(clicks)
    for step in range(first_step, steps):
        events = order[round(step * size) : round((step + 1) * size)]
        rng = np.random.default_rng([*seed, epoch, step])
        timelines, times, groups = _assemble(dataset, config, np.sort(events), rng, sampler)
        stacks = stack(groups, rows=timelines.rows) if stacked else (groups, None)
        yield Batch(epoch, step, timelines, times, *stacks)


def prefetched(source: Iterator[Batch]) -> Iterator[Batch]:
    """Yield the batches of `source`; a thread makes the next ones while a step runs.

    The content of a batch does not depend on when it is made, so the numbers do not either.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        waiting = deque(thread.submit(next, source, None) for _ in range(_AHEAD))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, source, None))
            yield batch


def _assemble(
    dataset: Dataset,
    config: Config,
    events: Ints,
    rng: np.random.Generator,
    sampler: PoolSampler,
) -> tuple[Timelines, Tensor, tuple[DomainRows, ...]]:
    domains = dataset.event_domain[events].astype(np.int64)
    order = np.argsort(domains, kind="stable")
    events, domains = events[order], domains[order]
    shown, seen_rows, seen_items = [], [], []
    for first, last in dataset.chunks(events, at_once=_CLICKS_AT_ONCE):
        histories = dataset.histories(events[first:last], Part.TRAIN)
        in_target = _in_target(histories, domains[first:last], dataset.catalogue)
        seen_rows.append(first + histories.rows()[in_target])
        seen_items.append(histories.items[in_target])
        masked = mask(histories, in_target, config.model, rng)
        shown.append(trimmed(masked, catalogue=dataset.catalogue, config=config.model))
    timelines = build_timelines(
        Histories.joined(shown), domains, catalogue=dataset.catalogue, config=config.model
    )
    seen = np.concatenate(seen_rows), np.concatenate(seen_items)
    times = torch.from_numpy(dataset.event_time[events])
    return timelines, times, _by_domain(dataset, events, domains, seen, rng, sampler)


def _in_target(histories: Histories, domains: Ints, catalogue: Catalogue) -> NDArray[np.bool_]:
    """Return (T,) true if an item is of its row's target domain (B,)."""
    of_rows = np.repeat(domains, np.diff(histories.offsets))
    return np.asarray(catalogue.domain_of(histories.items) == of_rows)


def mask(
    histories: Histories,
    in_target: NDArray[np.bool_],
    config: ModelConfig,
    rng: np.random.Generator,
) -> Histories:
    """Hide a share of all events, and a further share of those in their row's target domain.

    Args:
        histories: B histories of T items together.
        in_target: (T,) true if an item is of its row's target domain.
        config: its `drop_share` and `mask_share`.
        rng: the source of the draws.
    """
    shown = rng.random(len(in_target)) >= config.drop_share
    hidden = in_target & (rng.random(len(in_target)) < config.mask_share)
    return histories.where(shown & ~hidden)


def _by_domain(
    dataset: Dataset,
    events: Ints,
    domains: Ints,
    seen: tuple[Ints, Ints],
    rng: np.random.Generator,
    sampler: PoolSampler,
) -> tuple[DomainRows, ...]:
    """Return the rows by domain; `seen` are pairs of row and item of its target domain."""
    clicks = dataset.event_item[events].astype(np.int64)
    seen_rows, seen_items = seen
    other = seen_items != clicks[seen_rows]  # with repeats kept, the click was seen before
    seen_rows, seen_items = seen_rows[other], seen_items[other]
    if dataset.config.repeats == "keep":
        seen_rows, seen_items = np.unique(np.stack([seen_rows, seen_items]), axis=1)
    present, firsts = np.unique(domains, return_index=True)
    bounds = [*firsts.tolist(), len(domains)]
    groups = []
    for domain, first, last in zip(present.tolist(), bounds[:-1], bounds[1:], strict=True):
        pool = dataset.catalogue.pool(domain)
        begin, end = np.searchsorted(seen_rows, [first, last])
        sample = sampler.draw(domain, clicks[first:last], rng)
        own, of_rows, places = (
            clicks[first:last],
            seen_rows[begin:end] - first,
            seen_items[begin:end],
        )
        if sample is None:
            own, places = own - pool.start, places - pool.start
        else:
            own, places = (sampler.places(domain, sample, items) for items in (own, places))
            inside = places >= 0
            of_rows, places = of_rows[inside], places[inside]
        groups.append(
            DomainRows(
                domains=(domain,),
                names=(dataset.catalogue.domains[domain],),
                rows=slice(first, last),
                pool=pool,
                sample=sample,
                clicks=torch.from_numpy(own),
                seen=(torch.from_numpy(of_rows), torch.from_numpy(places)),
            )
        )
    return tuple(groups)
