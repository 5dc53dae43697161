"""Networks that know only some domains, to compare with joint training.

The same trainer trains each on a narrowed view of the same dataset (same split, same item tables).
So any difference comes from the other domains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from crossfeed.config import Config
from crossfeed.data.dataset import Dataset, Part
from crossfeed.evaluation.baselines import Popularity
from crossfeed.scorer import Catalogue, Floats, Histories, Moment, Scorer
from crossfeed.training.loop.trainer import SAME_COMMAND, train

__all__ = ["Alone", "Narrowed", "is_trainable", "train_alone", "train_narrowed"]

_STEPS_PER_EPOCH = 50
_SMALLEST_BATCH = 32


class Narrowed:
    """A scorer that sees the history in only some domains."""

    def __init__(self, scorer: Scorer, catalogue: Catalogue, domains: Sequence[int]) -> None:
        self._scorer, self._catalogue = scorer, catalogue
        self._domains = np.array(domains, np.int64)

    @property
    def name(self) -> str:
        """Return the wrapped scorer's name."""
        return self._scorer.name

    def score(self, histories: Histories, domain: int, moment: Moment) -> Floats:
        """Return (B, N) the scorer's scores of the pool for the visible part of each history."""
        kept = np.isin(self._catalogue.domain_of(histories.items), self._domains)
        return self._scorer.score(histories.where(kept), domain, moment)


class Alone:
    """Scores each domain by a network trained on that domain alone."""

    name = "alone"

    def __init__(self, scorers: Mapping[int, Scorer], otherwise: Scorer) -> None:
        self._scorers, self._otherwise = scorers, otherwise

    def score(self, histories: Histories, domain: int, moment: Moment) -> Floats:
        """Return (B, N) the scores of the domain's own network."""
        return self._scorers.get(domain, self._otherwise).score(histories, domain, moment)


def is_trainable(dataset: Dataset, targets: Sequence[int]) -> bool:
    """Return whether these domains have a training click and a validation click."""
    view = dataset.narrowed(targets=targets)
    return bool(len(view.learned_events) and len(view.events(Part.VALIDATION)))


def train_narrowed(
    dataset: Dataset,
    *,
    out: Path,
    config: Config,
    targets: Sequence[int],
    history: Sequence[int],
) -> Narrowed:
    """Train on the clicks of some domains, with the history in some domains.

    An interrupted training continues, and a finished one is not repeated.

    Args:
        dataset: all domains.
        out: folder of the run.
        config: settings; small data gets smaller batches, so that an epoch has about 50 steps.
        targets: domains whose clicks are learned and validated.
        history: domains that the network may see, in training and whenever it scores.
    """
    view = dataset.narrowed(targets=targets, history=history)
    batch_size = max(_SMALLEST_BATCH, len(view.learned_events) // _STEPS_PER_EPOCH)
    batch_size = min(batch_size, config.train.batch_size)
    settings = config.train.model_copy(
        update={"batch_size": batch_size, "expand_domains": None, "track": ()}
    )
    config = config.model_copy(update={"train": settings})
    run = train(view, out=out, config=config, resume=True, command=SAME_COMMAND)
    return Narrowed(run.scorer(), dataset.catalogue, history)


def train_alone(dataset: Dataset, *, out: Path, config: Config) -> Alone:
    """Train one network per domain, on that domain alone.

    Popularity scores a domain without a validation click, because no epoch could be chosen.

    Args:
        dataset: all domains.
        out: folder of the runs, one per domain by its index.
        config: settings of each, as for `train_narrowed`.
    """
    scorers = {}
    for domain in range(len(dataset.catalogue.domains)):
        if is_trainable(dataset, [domain]):
            scorers[domain] = train_narrowed(
                dataset, out=out / f"{domain:04}", config=config, targets=[domain], history=[domain]
            )
    return Alone(scorers, otherwise=Popularity(dataset))
