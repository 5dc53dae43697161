"""What is recommended where nothing usable is known of the user: a chain of steps per domain.

Dims: I items, N items of a pool.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfeed.bundle import Bundle
from crossfeed.errors import ConfigError, RequestError
from crossfeed.serving.ids import Id, restore_id
from crossfeed.serving.recommend.answers import FALLBACK_STEPS, Recommendation, Step

__all__ = ["Fallback", "FallbackChain", "Fallbacks", "read_fallbacks"]


@dataclass(frozen=True)
class FallbackChain:
    """What one domain falls back on: a step fills up what those before it left open."""

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
        tables = tomllib.loads(Path(file).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the fallbacks '{file}': {error}") from None
    return {domain: _read_chain(domain, table, bundle) for domain, table in tables.items()}


@dataclass(frozen=True)
class Fallback:
    """Fills answers by the chains of a bundle's domains."""

    bundle: Bundle
    chains: Fallbacks = field(default_factory=dict)

    def recommend(
        self,
        domain: int,
        *,
        allowed: NDArray[np.bool_],
        may_recommend: Callable[[Id], bool],
        k: int,
    ) -> tuple[tuple[Recommendation, ...], Step]:
        """Return at most k items, and the last step that was needed for them.

        Args:
            domain: index of the domain.
            allowed: (N,) the positions of its pool that take part.
            may_recommend: whether an item may take part that the model does not know.
            k: how many.
        """
        name = self.bundle.catalogue.domains[domain]
        chain = self.chains.get(name, FallbackChain())
        steps = self._steps(chain, name)
        found: list[Recommendation] = []
        last, left = steps[0], allowed.copy()
        for step in steps:
            if len(found) == k:
                break
            if step == "listed":
                more = self._listed(chain.items, domain, left, may_recommend)[: k - len(found)]
            else:
                more = self._by_clicks(step, domain, left, k - len(found))
            found += more
            last = step if more else last
        return tuple(found), last

    def _steps(self, chain: FallbackChain, name: str) -> list[Step]:
        """Return a chain's steps; a gate that chose popularity did not judge recent clicks."""
        if name not in self.bundle.held_back:
            return list(chain.steps)
        judged: list[Step] = ["popular" if step == "recent" else step for step in chain.steps]
        return list(dict.fromkeys(judged))

    def _by_clicks(
        self, step: Step, domain: int, left: NDArray[np.bool_], k: int
    ) -> list[Recommendation]:
        """Return the k items with most clicks, and take them out of what is left."""
        pool = self.bundle.catalogue.pool(domain)
        clicks = self.bundle.clicks[pool]
        counted = self.bundle.recent_clicks[pool] if step == "recent" else clicks
        positions = np.flatnonzero(left & (counted > 0) if step == "recent" else left)
        best = positions[np.lexsort((positions, -clicks[positions], -counted[positions]))[:k]]
        left[best] = False
        ids = self.bundle.ids.ids(best + pool.start)
        name = self.bundle.catalogue.domains[domain]
        scores = counted[best].astype(float).tolist()
        return [
            Recommendation(item_id, name, score, step)
            for item_id, score in zip(ids, scores, strict=True)
        ]

    def _listed(
        self,
        items: Iterable[Id],
        domain: int,
        left: NDArray[np.bool_],
        may_recommend: Callable[[Id], bool],
    ) -> list[Recommendation]:
        """Return what is allowed of a list, and take it out of what is left."""
        name, first = self.bundle.catalogue.domains[domain], self.bundle.catalogue.offsets[domain]
        chosen: list[Recommendation] = []
        for item_id in items:
            position = self.bundle.ids.index(item_id, name) - int(first)
            known = 0 <= position < len(left)
            if left[position] if known else may_recommend(item_id):
                chosen.append(Recommendation(item_id, name, 0.0, "listed"))
            if known:
                left[position] = False
        return chosen


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
