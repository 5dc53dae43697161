"""Batches of training clicks, assembled from the dataset without a loop over events.

A batch takes whole windows of clicks (`crossfeed.data.dataset.windows`). A click on an item that
nobody had clicked before its window is left out: no scorer could have proposed it.

Dims: B clicks, S pairs of (row, seen item), W windows of one domain, N items of its pool.
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
from crossfeed.data.dataset.windows import Windows, windows_of
from crossfeed.errors import TrainingError
from crossfeed.model.users.grouping import trimmed
from crossfeed.model.users.timelines import Timelines, build_timelines
from crossfeed.scorer import Catalogue, Histories, Ints
from crossfeed.training.parallel.distributed import Share, steps_per_epoch
from crossfeed.training.step.device_copies import moved
from crossfeed.training.step.pool_groups import DomainRows, PoolGroup, stack
from crossfeed.training.step.pool_sampling import PoolSampler, static_weights

__all__ = ["Batch", "batches", "no_item_exists", "prefetched"]

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

    @property
    def device(self) -> torch.device:
        """Return where the tensors are."""
        return self.timelines.item_rows.device

    def looked_up(self) -> Tensor:
        """Return (n,) the rows of histories and pools that a step uses, without repeats."""
        rows = [self.timelines.item_rows]
        for group in self.groups:
            pool = group.table
            if isinstance(pool, slice):
                pool = torch.arange(pool.start, pool.stop, device=self.device)
            rows.append(pool.flatten())
        rows_once: Tensor = torch.cat(rows).unique()  # type: ignore[no-untyped-call]
        return rows_once

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device."""
        if device == self.device:
            return self
        positions = [getattr(self.timelines, field.name) for field in fields(Timelines)]
        positions += [*(self.stacking or ())]
        positions += [each for group in self.groups for each in group.positions()]
        there = iter(moved(positions, device))
        shares = iter(moved([each for group in self.groups for each in group.shares()], device))
        return replace(
            self,
            timelines=Timelines(**{field.name: next(there) for field in fields(Timelines)}),
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

    The windows and their order depend only on (seed, epoch), and the masks on (seed, epoch, step).
    So a resumed epoch continues with the same batches as an uninterrupted one.

    Raises:
        TrainingError: no click of any window is on an item that existed.
    """
    seed, steps = [config.train.seed], steps_per_epoch(len(clicks), config)
    if share is not None:
        seed, steps = [*seed, share.rank], share.steps
    sampler = PoolSampler(dataset, config.train)
    rng = np.random.default_rng([*seed, epoch])
    windows = windows_of(dataset, clicks, rng=rng, most=max(1, len(clicks) // steps))
    order = np.array_split(rng.permutation(len(windows)), steps)
    for step in range(first_step, steps):
        rng = np.random.default_rng([*seed, epoch, step])
        # Only in tiny logs is every click of a batch on a new item; then the next one stands in.
        chosen = (order[(step + later) % steps] for later in range(steps))
        rows = next(filter(None, (_rows(dataset, windows, one) for one in chosen)), None)
        if rows is None:
            raise no_item_exists(dataset, "training")
        timelines, groups = _assemble(dataset, config, rows, rng, sampler)
        stacks = stack(groups, rows=timelines.rows) if stacked else (groups, None)
        yield Batch(epoch, step, timelines, *stacks)


def prefetched(source: Iterator[Batch]) -> Iterator[Batch]:
    """Yield the batches of `source`; a thread makes the next ones while a step runs.

    The content of a batch does not depend on when it is made, so the numbers do not either.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        waiting = deque(thread.submit(next, source, None) for _ in range(_AHEAD))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, source, None))
            yield batch


def no_item_exists(dataset: Dataset, part: str) -> TrainingError:
    """Return the error for a part in which no click can be learned or ranked."""
    return TrainingError(
        f"all {part} clicks of '{dataset.path}' are on items that nobody clicked before, "
        "so that nothing can be proposed for them",
        hint="prepare a longer log, or cut where items have been clicked already",
    )


@dataclass(frozen=True)
class _Rows:
    """The clicks of a batch, by domain and window."""

    events: Ints
    """(B,) their indices."""
    domains: Ints
    """(B,) the domain of each."""
    windows: Ints
    """(B,) the window of each, as a number of its domain in the batch."""
    before: dict[int, Ints]
    """Domain -> (W,) how many of its clicks are earlier than each window."""

    def __bool__(self) -> bool:
        return len(self.events) > 0


def _rows(dataset: Dataset, windows: Windows, chosen: Ints) -> _Rows:
    """Return the clicks of some windows whose items existed."""
    chosen = chosen[np.argsort(windows.domains[chosen], kind="stable")]
    present, firsts = np.unique(windows.domains[chosen], return_index=True)
    events, numbers, before = [], [], {}
    for domain, own in zip(present.tolist(), np.split(chosen, firsts[1:]), strict=True):
        history = dataset.demand_history(domain, Part.TRAIN)
        before[domain] = history.before(windows.times[own])
        sizes = windows.offsets[own + 1] - windows.offsets[own]
        number = np.repeat(np.arange(len(own)), sizes)
        starts = windows.offsets[own] - np.cumsum(sizes) + sizes
        clicks = windows.events[np.arange(len(number)) + np.repeat(starts, sizes)]
        places = dataset.event_item[clicks] - dataset.catalogue.pool(domain).start
        exists = history.clicks(places.astype(np.int64), before[domain][number]) > 0
        events.append(clicks[exists])
        numbers.append(number[exists])
    together = np.concatenate(events)
    domains = dataset.event_domain[together].astype(np.int64)
    return _Rows(together, domains, np.concatenate(numbers), before)


def _assemble(
    dataset: Dataset,
    config: Config,
    rows: _Rows,
    rng: np.random.Generator,
    sampler: PoolSampler,
) -> tuple[Timelines, tuple[DomainRows, ...]]:
    events, domains = rows.events, rows.domains
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
    return timelines, _by_domain(dataset, config, rows, seen, rng, sampler)


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
    config: Config,
    rows: _Rows,
    seen: tuple[Ints, Ints],
    rng: np.random.Generator,
    sampler: PoolSampler,
) -> tuple[DomainRows, ...]:
    """Return the rows by domain; `seen` are pairs of row and item of its target domain."""
    clicks = dataset.event_item[rows.events].astype(np.int64)
    seen_rows, seen_items = seen
    other = seen_items != clicks[seen_rows]  # with repeats kept, the click was seen before
    seen_rows, seen_items = seen_rows[other], seen_items[other]
    if dataset.config.repeats == "keep":
        seen_rows, seen_items = np.unique(np.stack([seen_rows, seen_items]), axis=1)
    present, firsts = np.unique(rows.domains, return_index=True)
    bounds = [*firsts.tolist(), len(rows.domains)]
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
            items = np.arange(pool.stop - pool.start)
            own, places = own - pool.start, places - pool.start
        else:
            items = sample.items.numpy() - pool.start
            own, places = (sampler.places(domain, sample, each) for each in (own, places))
            inside = places >= 0
            of_rows, places = of_rows[inside], places[inside]
        before = rows.before[domain][:, None]
        history = dataset.demand_history(domain, Part.TRAIN)
        demand, counts = history.demand(items[None], before)
        static = np.where(counts > 0, static_weights(counts, config.train), 0.0)
        groups.append(
            DomainRows(
                domains=(domain,),
                names=(dataset.catalogue.domains[domain],),
                rows=slice(first, last),
                pool=pool,
                table_rows=dataset.catalogue.trained_rows(domain),
                sample=sample,
                clicks=torch.from_numpy(own),
                seen=(torch.from_numpy(of_rows), torch.from_numpy(places)),
                windows=torch.from_numpy(rows.windows[first:last]),
                demand=torch.from_numpy(demand.astype(np.float32)),
                static=torch.from_numpy(static.astype(np.float32)),
            )
        )
    return tuple(groups)
