"""The truth of a simulated log: the clicks of every user in every domain.

Dims: U users, I items, D domains, E width of a taste, P phases, B rows, N items of one domain.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from crossfeed.errors import DatasetError

__all__ = ["START_SECONDS", "YEAR_SECONDS", "Truth"]

START_SECONDS = 1_704_067_200
"""2024-01-01, where a simulated log begins."""
YEAR_SECONDS = 364 * 86_400

_FORMAT = "1"

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Truth:
    """The planted tastes, popularities and item vectors."""

    domains: tuple[str, ...]
    item_offsets: Ints
    """(D + 1,) first item of each domain, then I."""
    popularity: Floats
    """(I,) the part of the logit common to all users."""
    item_vectors: Floats
    """(I, E)"""
    shared_first: Floats
    """(U, E) the shared taste in the first phase."""
    shared_last: Floats
    """(U, E) the direction in which it turns."""
    own: Floats
    """(U, D, E) the taste for one domain only."""
    angles: Floats
    """(P,) how far the shared taste has turned in each phase."""

    @classmethod
    def load(cls, path: Path | str) -> Truth:
        """Read the file that `simulate` wrote beside the log.

        Raises:
            DatasetError: the file is missing, or not a truth of this version.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                about = json.loads((file.metadata() or {}).get("truth", "{}"))
                arrays = {name: file.get_tensor(name) for name in file.keys()}
        except (OSError, SafetensorError) as error:
            raise DatasetError(f"cannot read the truth '{path}': {error}") from error
        if about.get("format_version") != _FORMAT:
            raise DatasetError(f"'{path}' is not a truth of format version {_FORMAT}")
        return cls(domains=tuple(about["domains"]), **arrays)

    @staticmethod
    def recognises(path: Path) -> bool:
        """Return whether a file holds a truth of any version."""
        try:
            with safe_open(path, framework="numpy") as file:
                return "truth" in (file.metadata() or {})
        except SafetensorError:
            return False

    def save(self, path: Path) -> None:
        """Write all arrays and the domains' names."""
        arrays = {
            field.name: np.ascontiguousarray(getattr(self, field.name))
            for field in fields(self)
            if field.name != "domains"
        }
        # One entry: the order of several is not the same from one file to the next.
        about = {"format_version": _FORMAT, "domains": self.domains}
        # Python writes it, because its errors name the problem with the disk.
        path.write_bytes(save(arrays, {"truth": json.dumps(about)}))

    def probabilities(
        self, user_ids: Sequence[str], domain: str, *, timestamps: Sequence[int] | Ints
    ) -> Floats:
        """Return (B, N) the true probability of each of the domain's items.

        Args:
            user_ids: B users, as in the log.
            domain: one of `domains`; the columns are those of `domain_items(domain)`.
            timestamps: B times in seconds since 1970.

        Clicks are drawn without repeats: renormalise over the items that a user has not clicked.
        """
        users = np.array([int(user_id.partition("-")[2]) for user_id in user_ids], np.int64)
        elapsed = np.asarray(timestamps, np.int64) - START_SECONDS
        phases = np.clip(elapsed * len(self.angles) // YEAR_SECONDS, 0, len(self.angles) - 1)
        number = self.domains.index(domain)
        logits = np.empty((len(users), np.diff(self.item_offsets)[number]), np.float32)
        for phase in np.unique(phases):
            rows = np.flatnonzero(phases == phase)
            logits[rows] = self.logits(users[rows], number, int(phase))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    def domain_items(self, domain: str) -> list[str]:
        """Return the ids of a domain's items, in the order of `probabilities`."""
        first, last = self.item_offsets[self.domains.index(domain) :][:2]
        return list(self.item_ids(np.arange(first, last)).to_pylist())

    def logits(self, users: Ints, domain: int, phase: int) -> Floats:
        """Return (B, N) popularity + taste . item for users given by number."""
        angle = self.angles[phase]
        shared = np.cos(angle) * self.shared_first[users] + np.sin(angle) * self.shared_last[users]
        items = slice(self.item_offsets[domain], self.item_offsets[domain + 1])
        taste = shared + self.own[users, domain]  # (B, E)
        return np.asarray(taste @ self.item_vectors[items].T + self.popularity[items])

    def user_ids(self, users: Ints) -> pa.Array:
        """Return the ids of users given by number."""
        return _ids(pa.scalar("user-"), users, len(self.shared_first))

    def item_ids(self, items: Ints) -> pa.Array:
        """Return the ids of items given by number: the domain and a number within it."""
        domains = self.domain_of(items)
        names = pa.array([f"{name}-" for name in self.domains]).take(pa.array(domains))
        return _ids(
            names, items - self.item_offsets[domains], int(np.diff(self.item_offsets).max())
        )

    def domain_of(self, items: Ints) -> Ints:
        """Return the domain of each item, by number."""
        return np.searchsorted(self.item_offsets, items, side="right") - 1


def _ids(prefix: pa.Scalar | pa.Array, numbers: Ints, count: int) -> pa.Array:
    digits = len(str(max(count - 1, 0)))
    padded = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), width=digits, padding="0")
    return pc.binary_join_element_wise(prefix, padded, "")
