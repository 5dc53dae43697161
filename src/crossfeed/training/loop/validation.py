"""The figure that chooses an epoch: validation of the weights that would be served."""

from __future__ import annotations

import torch
from torch.profiler import record_function

from crossfeed.config import Config
from crossfeed.data.dataset import Dataset, Part
from crossfeed.evaluation.baselines import Popularity
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.evaluation.metrics import SELECTED_BY
from crossfeed.evaluation.results import Results
from crossfeed.model.network_scorer import NetworkScorer
from crossfeed.model.players import Players
from crossfeed.scorer import Scorer
from crossfeed.training.loop.random_state import forked
from crossfeed.training.parallel.distributed import Workers

__all__ = ["Validation"]


class Validation:
    """Ranks the validation part, by all processes together."""

    def __init__(
        self, dataset: Dataset, config: Config, workers: Workers, device: torch.device
    ) -> None:
        self._dataset, self._config = dataset, config
        self._workers, self._device = workers, device

    def evaluate(self, served: Players) -> Results:
        """Return the figures of the players that would be served."""
        catalogue = self._dataset.catalogue
        with record_function("validation"):
            if self._config.train.table_sharding == "none":
                return self._judge(NetworkScorer(catalogue, served))
            with forked(self._device):  # it draws weights that are replaced
                state = served.state_dict()
                whole = NetworkScorer.from_state(catalogue, self._config.model, state)
            return self._judge(whole)

    def popularity(self) -> float:
        """Return the figure of popularity, below which a score is worth nothing."""
        return self.selected(self._judge(Popularity(self._dataset)))

    def selected(self, results: Results) -> float:
        """Return the figure that chooses an epoch, the leader's in all processes."""
        # Rounding on another machine decides nothing.
        return self._workers.from_leader(results.micro[SELECTED_BY])

    def _judge(self, scorer: Scorer) -> Results:
        return evaluate(scorer, self._dataset, part=Part.VALIDATION, workers=self._workers)
