"""Batches of training clicks, assembled from the dataset without a loop over events.

Dims: B clicks, S pairs of (row, seen item).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from crossfeed.config import Config, ModelConfig
from crossfeed.data.dataset import Dataset, Part
from crossfeed.model.timelines import Timelines, build_timelines
from crossfeed.scorer import Catalogue, Histories, Ints
from crossfeed.training.pools import PoolSample, PoolSampler
from crossfeed.training.transfer import moved

__all__ = ["Batch", "DomainRows", "Share", "ahead", "batches", "steps_per_epoch"]

_AHEAD = 2
"""Batches that wait for the step that needs them."""


@dataclass(frozen=True)
class DomainRows:
    """The rows of a batch whose target is one domain; they are neighbours."""

    domain: int
    name: str
    rows: slice
    pool: slice
    """The domain's items."""
    sample: PoolSample | None
    """The items of a large pool that the step looks at; positions are those in the sample."""
    clicks: Tensor
    """(b,) position in the pool of each row's click."""
    seen: tuple[Tensor, Tensor]
    """Row within `rows` and position in the pool of what the user saw before, click excepted;
    no pair twice. It is no candidate."""

    @property
    def items(self) -> slice | Tensor:
        """Return where the pool's items lie in the tables."""
        return self.pool if self.sample is None else self.sample.items

    @property
    def size(self) -> int:
        """Return N, how many items the step looks at."""
        if self.sample is None:
            return int(self.pool.stop - self.pool.start)
        return len(self.sample.items)

    def item_indices(self, positions: Tensor) -> Tensor:
        """Return the item indices of positions in the pool, of any shape."""
        if self.sample is None:
            return torch.add(positions, self.pool.start)
        return torch.take(self.sample.items, positions)

    def log_inclusion(self, positions: Tensor) -> Tensor | float:
        """Return (b, K) log pi of positions in each row's pool; a row's own click is always there.

        Args:
            positions: (b, K) of the rows' items.
        """
        if self.sample is None:
            return 0.0
        own = positions == self.clicks.unsqueeze(1)
        return self.sample.log_inclusion[positions].masked_fill(own, 0.0)

    def as_masses(self, logits: Tensor) -> Tensor:
        """Return logits (b, N) less log pi, so that sums over a sample are sums over the pool.

        What was seen before becomes -inf. In float32, whatever the logits were made in.
        """
        logits = logits.float()
        if self.sample is not None:
            own = torch.arange(len(self.clicks), device=logits.device), self.clicks
            inclusion = self.sample.log_inclusion
            logits = (logits - inclusion).index_put(own, inclusion[self.clicks], accumulate=True)
        return logits.index_put(self.seen, logits.new_tensor(float("-inf")))


@dataclass(frozen=True)
class Batch:
    """Clicks of training with what was known of their users just before."""

    epoch: int
    step: int
    timelines: Timelines
    times: Tensor
    """(B,) when each click was, in milliseconds since 1970."""
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
        if device == self.timelines.items.device:
            return self
        parts = [getattr(self.timelines, field.name) for field in fields(Timelines)]
        parts.append(self.times)
        samples = []
        for group in self.groups:
            parts += [group.clicks, *group.seen]
            if group.sample is not None:
                parts.append(group.sample.items)
                samples.append(group.sample.log_inclusion)
        there, inclusions = iter(moved(parts, device)), iter(moved(samples, device))
        return replace(
            self,
            timelines=Timelines(**{field.name: next(there) for field in fields(Timelines)}),
            times=next(there),
            groups=tuple(
                replace(
                    group,
                    clicks=next(there),
                    seen=(next(there), next(there)),
                    sample=group.sample and PoolSample(next(there), next(inclusions)),
                )
                for group in self.groups
            ),
        )


@dataclass(frozen=True)
class Share:
    """What one of several processes does of each pass over the training clicks."""

    rank: int
    """The number of the process; each has its own order of clicks and its own masks."""
    steps: int
    """Batches in a pass, the same number in all processes: the clicks are divided evenly."""


def steps_per_epoch(clicks: int, config: Config) -> int:
    """Return the number of batches in one pass over the training clicks."""
    return -(-clicks // config.train.batch_size)


def batches(
    dataset: Dataset,
    config: Config,
    *,
    clicks: Ints,
    epoch: int,
    first_step: int = 0,
    share: Share | None = None,
) -> Iterator[Batch]:
    """Yield one epoch's batches of the clicks from `first_step` on.

    The order of the clicks depends on (seed, epoch) and what is masked on (seed, epoch, step)
    alone, so that a resumed epoch goes on with the very batches that it would have had.
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
        yield Batch(epoch, step, *_assemble(dataset, config, np.sort(events), rng, sampler))


def ahead(source: Iterator[Batch]) -> Iterator[Batch]:
    """Yield what `source` yields, made by a thread of its own while the steps before are taken.

    What a batch holds does not depend on when it is made, so neither do the numbers.
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
    histories = dataset.histories(events, Part.TRAIN)
    timelines = build_timelines(
        mask(histories, domains, catalogue=dataset.catalogue, config=config.model, rng=rng),
        domains,
        catalogue=dataset.catalogue,
        config=config.model,
    )
    times = torch.from_numpy(dataset.event_time[events])
    return timelines, times, _by_domain(dataset, events, domains, histories, rng, sampler)


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
    dataset: Dataset,
    events: Ints,
    domains: Ints,
    histories: Histories,
    rng: np.random.Generator,
    sampler: PoolSampler,
) -> tuple[DomainRows, ...]:
    clicks = dataset.event_item[events].astype(np.int64)
    rows = histories.rows()
    of_target = dataset.catalogue.domain_of(histories.items) == domains[rows]
    seen_rows, seen_items = rows[of_target], histories.items[of_target]
    other = seen_items != clicks[seen_rows]  # where repeats are kept the click was seen before
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
        seen = seen_rows[begin:end] - first, seen_items[begin:end]
        own, seen_places = _places(pool, sample, clicks[first:last], seen)
        groups.append(
            DomainRows(
                domain=domain,
                name=dataset.catalogue.domains[domain],
                rows=slice(first, last),
                pool=pool,
                sample=sample,
                clicks=torch.from_numpy(own),
                seen=(torch.from_numpy(seen_places[0]), torch.from_numpy(seen_places[1])),
            )
        )
    return tuple(groups)


def _places(
    pool: slice, sample: PoolSample | None, clicks: Ints, seen: tuple[Ints, Ints]
) -> tuple[Ints, tuple[Ints, Ints]]:
    """Return clicks and (row, seen item) as positions in the pool, without what lies outside."""
    rows, items = seen
    if sample is None:
        return clicks - pool.start, (rows, items - pool.start)
    sampled = sample.items.numpy()
    places = np.minimum(np.searchsorted(sampled, items), len(sampled) - 1)
    inside = sampled[places] == items
    return np.searchsorted(sampled, clicks), (rows[inside], places[inside])
