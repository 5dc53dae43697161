"""A log with every kind of dirt, as text files cannot be trusted not to have."""

from __future__ import annotations

import numpy as np
import pandas as pd

_START = 1_600_000_000
_DAY = 86_400
_STRANGE = ("ключ-{}", "日本-{}", "naïve {}", "Q|{}", "🦊{}", "{}\n", " {}", "U-{}", "u-{}")


def dirty_log(*, rows: int = 6_000, integer_items: bool = True, seed: int = 0) -> pd.DataFrame:
    """Return a log with repeats, ties, missing ids, impossible times, shared ids, small domains.

    User ids are of all scripts, with separators, white space and twins by case; item ids are
    integers of both signs that domains share, or text.
    """
    rng = np.random.default_rng(seed)
    user = (120 * rng.random(rows) ** 2).astype(int)
    item = (90 * rng.random(rows) ** 2).astype(int) - 7
    domain = rng.choice(
        ["books", "фильмы", "a/b\nc", "games", "tiny"], rows, p=[0.5, 0.3, 0.1, 0.098, 0.002]
    )
    time = _START + _DAY * rng.integers(40, size=rows)
    log = pd.DataFrame(
        {
            "user_id": [_STRANGE[n % len(_STRANGE)].format(n) for n in user],
            "item_id": item if integer_items else [f"i{n}" for n in item],
            "domain": domain,
            "timestamp": time,
            "rating": rng.integers(1, 6, size=rows),
        }
    )
    log["item_id"] = log["item_id"].astype("Int64" if integer_items else "object")
    again = log.sample(rows // 20, random_state=seed)  # the same click at another time, or not
    again["timestamp"] += _DAY * rng.integers(2, size=len(again))
    log = pd.concat([log, again], ignore_index=True)
    for column, value in (
        *(("user_id", None), ("user_id", ""), ("item_id", None)),
        *(("domain", None), ("domain", ""), ("timestamp", 12), ("timestamp", 2**60)),
    ):
        log.loc[rng.choice(len(log), 7, replace=False), column] = value
    return log
