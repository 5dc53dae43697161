"""The figure that chooses an epoch: validation of the weights that would be served."""

from __future__ import annotations

import numpy as np
import torch
from torch.profiler import record_function

from crossfeed.config import Config
from crossfeed.data.dataset import Dataset, Part
from crossfeed.evaluation.baselines import Popularity
from crossfeed.evaluation.clock import Clock
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.evaluation.judgement import judge_shares
from crossfeed.evaluation.metrics import SELECTED_BY
from crossfeed.evaluation.results import Results
from crossfeed.model.network_scorer import NetworkScorer
from crossfeed.model.players import Players
from crossfeed.scorer import Scorer
from crossfeed.training.loop.random_state import forked
from crossfeed.training.parallel.distributed import Workers

__all__ = ["Validation"]


_SHARES = (1.0, 0.75, 0.5, 0.25)
"""Personal shares that are tried, the first one first."""
_TRIED_ON = 4000
"""Validation clicks that choose among them, drawn once; all clicks judge the epoch."""


class Validation:
    """Ranks the validation part, by all processes together."""

    def __init__(
        self, dataset: Dataset, config: Config, workers: Workers, device: torch.device
    ) -> None:
        self._dataset, self._config = dataset, config
        self._workers, self._device = workers, device

    def evaluate(self, served: Players) -> Results:
        """Choose the personal share of the players that would be served; return their figures."""
        with record_function("validation"):
            scorer = self._scorer(served)
            scorer.players.personal_share.fill_(1.0)
            share = self._best_share(scorer)
            for players in (served, scorer.players):
                players.personal_share.fill_(share)
            return self._judge(scorer)

    def _best_share(self, scorer: NetworkScorer) -> float:
        """Return the share that ranks a sample of the clicks best, the largest of equals."""
        events = self._dataset.events(Part.VALIDATION)
        if len(events) > _TRIED_ON:
            events = np.sort(np.random.default_rng(0).choice(events, _TRIED_ON, replace=False))
        own = np.array_split(events, self._workers.count)[self._workers.rank]
        clock = Clock(self._dataset, Part.VALIDATION)
        sums = judge_shares(scorer, self._dataset, own, clock=clock, shares=_SHARES)
        # Rounding on another machine decides nothing.
        return self._workers.from_leader(
            _SHARES[int(np.sum(self._workers.gather(sums), 0).argmax())]
        )

    def _scorer(self, served: Players) -> NetworkScorer:
        if self._config.train.table_sharding == "none":
            return NetworkScorer(self._dataset.catalogue, served)
        with forked(self._device):  # it draws weights that are replaced
            return NetworkScorer.from_state(
                self._dataset.catalogue, self._config.model, served.state_dict()
            )

    def popularity(self) -> float:
        """Return the figure of popularity, below which a score is worth nothing."""
        return self.selected(self._judge(Popularity(self._dataset)))

    def selected(self, results: Results) -> float:
        """Return the figure that chooses an epoch, the leader's in all processes."""
        # Rounding on another machine decides nothing.
        return self._workers.from_leader(results.micro[SELECTED_BY])

    def _judge(self, scorer: Scorer) -> Results:
        return evaluate(scorer, self._dataset, part=Part.VALIDATION, workers=self._workers)
