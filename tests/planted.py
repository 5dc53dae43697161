"""A small log with a planted answer, and settings of a network small enough for a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from crossfeed.config import Config, DataConfig, parse_config
from crossfeed.data.dataset import Dataset
from crossfeed.data.prepare.pipeline import prepare

DOMAINS = ("articles", "shopping", "videos")
ITEMS_PER_TASTE = 10


def planted_log(*, users: int = 120, seed: int = 0) -> pd.DataFrame:
    """Return a log in which a user's one taste decides every click in every domain.

    Each domain has two halves of items; a user clicks inside the half of its taste, in a random
    order. Popularity knows nothing of taste, so only a model that carries taste from one domain
    to another can rank the right half first where the user is new.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        taste = user % 2
        for domain in DOMAINS:
            picked = rng.choice(ITEMS_PER_TASTE, size=6, replace=False) + taste * ITEMS_PER_TASTE
            rows += [(f"u{user:03}", f"{domain[0]}{item:02}", domain) for item in picked]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "domain"])
    log["timestamp"] = 1_600_000_000 + rng.permutation(len(log)) * 60
    return log


def small_dataset(log: pd.DataFrame, out: Path) -> Dataset:
    """Prepare a log of a few users, new-in-domain, with every item in it."""
    settings = {"split": "new-in-domain", "min_domain_events": 10, "min_item_events": 1}
    return prepare(log, out=out, config=DataConfig.model_validate(settings))


def tiny_config(*, adversary: bool = True, **train: object) -> Config:
    """Return settings of a network small enough for a test; without adversary in half the time."""
    model: dict[str, object] = {"width": 16, "heads": 2, "dropout": 0.1, "drop_share": 0.0}
    if not adversary:
        model["fuse"] = "none"
        train = {"proposal_share": 0.0, **train}
    settings = {"epochs": 2, "batch_size": 256, "candidates": 8, "learning_rate": 0.01, **train}
    settings.setdefault("average", 0.9)  # of few steps, the default would remember the first ones
    return parse_config({"model": model, "train": settings})
