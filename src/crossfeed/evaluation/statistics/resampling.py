"""Chance by user: resampled users, and users whose two scorers are exchanged.

Dims: U users, R resamples or flips, C quantities.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

__all__ = ["drawn_users", "randomisation_test", "wilcoxon_test"]

Values = NDArray[np.float64]

_CELLS_AT_ONCE = 8_000_000
"""Weights or signs held in memory at a time: 64 MB, with temporaries about 200 MB."""


def drawn_users(users: int, *, resamples: int, seed: int) -> Iterator[Values]:
    """Yield blocks (U, r) of how often each user is drawn, r resamples of U draws each.

    Drawing is with replacement, each user as likely as any other. The widths r of all blocks add
    up to `resamples`.
    """
    rng = np.random.default_rng(seed)
    for size in _blocks(resamples, users):
        drawn = rng.integers(users, size=(users, size))
        drawn *= size
        drawn += np.arange(size)
        counts = np.bincount(drawn.ravel(), minlength=users * size)
        yield counts.reshape(users, size).astype(float)


def randomisation_test(shares: sparse.csr_array, *, flips: int, seed: int) -> Values:
    """Return (C,) two-sided p-values of paired differences, under random signs of the users.

    p = (1 + flips at least as extreme) / (1 + flips): p is never 0, and the test is valid with any
    number of flips. All of a user's quantities are flipped together.

    Args:
        shares: (C, U) the contribution of each user to each difference.
        flips: how many times the signs of all users are drawn.
        seed: the same seed gives the same p.

    Source: Fisher 1935; for rankings Smucker et al. 2007; the ones added: Phipson & Smyth 2010.
    """
    rng = np.random.default_rng(seed)
    observed = np.abs(shares.sum(axis=1))[:, None]
    slack = 1e-9 * np.abs(shares).sum(axis=1)[:, None]  # equal sums differ in rounding
    extreme = np.zeros(shares.shape[0])
    users = shares.shape[1]
    for size in _blocks(flips, users):
        signs = _signs(rng, users, size)
        extreme += (np.abs(shares @ signs) >= observed - slack).sum(axis=1)
    return np.asarray((1 + extreme) / (1 + flips))


def wilcoxon_test(differences: Values) -> float:
    """Return the two-sided p-value of the signed-rank test; users without a difference drop out.

    Source: Wilcoxon 1945.
    """
    if not np.any(differences):
        return 1.0
    # Equal differences must tie, so rounding errors are rounded away.
    rounded = np.round(differences / np.abs(differences).max(), 12)
    return float(stats.wilcoxon(rounded[rounded != 0]).pvalue)


def _signs(rng: np.random.Generator, users: int, size: int) -> Values:
    """Return (users, size) signs, -1 or 1."""
    cells = users * size
    random = np.frombuffer(rng.bytes(-(-cells // 8)), np.uint8)
    signs = np.unpackbits(random, count=cells).astype(float)
    signs *= 2
    signs -= 1
    return signs.reshape(users, size)


def _blocks(count: int, users: int) -> Iterator[int]:
    """Yield widths of blocks that add up to `count`."""
    size = max(1, _CELLS_AT_ONCE // max(users, 1))
    for first in range(0, count, size):
        yield min(size, count - first)
