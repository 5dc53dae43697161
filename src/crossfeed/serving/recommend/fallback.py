"""Sources for users of whom nothing usable is known: a chain of steps per domain.

Dims: N items of a pool.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfeed.bundle import Bundle
from crossfeed.errors import ConfigError, RequestError
from crossfeed.scorer import Ints
from crossfeed.serving.ids import Id, restore_id
from crossfeed.serving.recommend.answers import FALLBACK_STEPS, Step
from crossfeed.serving.recommend.target import Allowed, Candidates, FindCandidates, Target

__all__ = ["Fallback", "FallbackChain", "Fallbacks", "read_fallbacks"]


@dataclass(frozen=True)
class FallbackChain:
    """The fallback of one domain: each step fills the places that the ones before left open."""

    steps: tuple[Step, ...] = FALLBACK_STEPS
    items: tuple[Id, ...] = ()
    """The list of the step `listed`, best first; also items that the model does not know."""


Fallbacks = Mapping[str, FallbackChain]
"""Domain -> its chain; a domain that is missing has the default one, with no list."""


def read_fallbacks(file: Path | str, bundle: Bundle) -> Fallbacks:
    """Read a TOML file with one table per domain: `chain`, `items`, or both.

    Raises:
        ConfigError: it cannot be read, or names a domain, step or id that cannot be.
    """
    try:
        tables = tomllib.loads(Path(file).read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the fallbacks '{file}': {error}") from None
    return {domain: _read_chain(domain, table, bundle) for domain, table in tables.items()}


@dataclass(frozen=True)
class Fallback:
    """The sources of a bundle's domains for users of whom nothing usable is known."""

    bundle: Bundle
    chains: Fallbacks = field(default_factory=dict)

    def steps(self, domain: str) -> Iterator[tuple[Step, FindCandidates]]:
        """Yield the steps of a domain's chain and what finds their items."""
        chain = self.chains.get(domain, FallbackChain())
        finds: dict[Step, FindCandidates] = {
            "recent": self._recent,
            "popular": self._popular,
            "listed": partial(self._listed, chain.items),
        }
        for step in self._judged(chain, domain):
            yield step, finds[step]

    def _judged(self, chain: FallbackChain, domain: str) -> list[Step]:
        """Return a chain's steps; a gate that chose popularity did not judge recent clicks."""
        if domain not in self.bundle.held_back:
            return list(chain.steps)
        judged: list[Step] = ["popular" if step == "recent" else step for step in chain.steps]
        return list(dict.fromkeys(judged))

    def _recent(self, target: Target, allowed: Allowed) -> Candidates:
        counts = self.bundle.recent_clicks[target.pool]
        return self._most_clicked("recent", target, counts, allowed.mask & (counts > 0))

    def _popular(self, target: Target, allowed: Allowed) -> Candidates:
        counts = self.bundle.clicks[target.pool]
        return self._most_clicked("popular", target, counts, allowed.mask)

    def _most_clicked(
        self, step: Step, target: Target, counts: Ints, mask: NDArray[np.bool_]
    ) -> Candidates:
        """Return the k items with the largest counts; of equal ones those with more clicks."""
        clicks, positions = self.bundle.clicks[target.pool], np.flatnonzero(mask)
        order = np.lexsort((positions, -clicks[positions], -counts[positions]))
        best = positions[order[: target.k]]
        return Candidates(step, best, counts[best].astype(np.float64))

    def _listed(self, items: Sequence[Id], target: Target, allowed: Allowed) -> Candidates:
        """Return a list as somebody wrote it; -1 is an item that the model does not know."""
        found = np.array([self.bundle.ids.index(one, target.name) for one in items], np.int64)
        in_pool = (found >= target.pool.start) & (found < target.pool.stop)
        positions = np.where(in_pool, found - target.pool.start, -1)
        return Candidates("listed", positions, np.zeros(len(items)), items)


def _read_chain(domain: str, table: Any, bundle: Bundle) -> FallbackChain:  # Any: TOML
    if domain not in bundle.catalogue.domains:
        known = ", ".join(bundle.catalogue.domains)
        raise ConfigError(f"fallbacks: domain '{domain}' is unknown; it is one of: {known}")
    if not isinstance(table, dict) or table.keys() - {"chain", "items"}:
        raise ConfigError(f"fallbacks of '{domain}' must be a table of chain and items")
    steps, items = table.get("chain", list(FALLBACK_STEPS)), table.get("items", [])
    if not _is_chain(steps):
        raise ConfigError(
            f"the chain of '{domain}' is {steps!r}; allowed are {', '.join(FALLBACK_STEPS)}, each "
            "at most once, at least one"
        )
    if not isinstance(items, list) or len(set(map(str, items))) != len(items):
        raise ConfigError(f"the items of '{domain}' must be a list of different ids")
    return FallbackChain(tuple(steps), _restore(items, domain, bundle))


def _is_chain(steps: Any) -> bool:  # Any: TOML
    return (
        isinstance(steps, list)
        and 0 < len(steps) == len(set(map(str, steps)))
        and all(step in FALLBACK_STEPS for step in steps)
    )


def _restore(items: Sequence[Any], domain: str, bundle: Bundle) -> tuple[Id, ...]:  # Any: TOML
    try:
        return tuple(
            restore_id(item, bundle.item_id_type, field=f"fallbacks.{domain}.items")
            for item in items
        )
    except RequestError as error:
        raise ConfigError(error.message) from None
