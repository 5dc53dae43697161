"""The moving state of a fit: both players, their optimisers, and the average of their weights."""

from __future__ import annotations

from typing import Any

import torch

from crossfeed.config import Config
from crossfeed.model.demand import DemandFunction
from crossfeed.model.players import Players
from crossfeed.scorer import Catalogue
from crossfeed.training.parallel.sharded_table import (
    TABLE_LEARNING_RATE,
    RowOptimiser,
    ShardedTable,
)
from crossfeed.training.step.average import RunningAverage
from crossfeed.training.step.optimiser import PlayerOptimiser

__all__ = ["FitState"]


class FitState:
    """The players in training, and the players that are validated, kept and served."""

    def __init__(self, catalogue: Catalogue, config: Config, *, device: torch.device) -> None:
        self._train = config.train
        self.players = Players(catalogue, config.model).to(device)
        tables = set()
        if catalogue.rows > config.train.dense_items or config.train.table_sharding == "row":
            tables = self.players.use_sparse_gradients()
        self._divided: tuple[RowOptimiser, ...] = ()
        if config.train.table_sharding == "row":
            self._divided = self._divide()
        self._average = (
            RunningAverage(self.players, kept=config.train.average, tables=frozenset(tables))
            if config.train.average
            else None
        )
        self.optimisers = {
            name: PlayerOptimiser(player, config.train, average=self._average)
            for name, player in (
                ("discriminator", self.players.discriminator),
                ("generator", self.players.generator),
            )
        }

    @property
    def served(self) -> Players:
        """Return the players that are validated and kept: the average, if there is one."""
        for optimiser in self.optimisers.values():
            optimiser.catch_up(None)
        return self.players if self._average is None else self._average.players()

    def begin_with_demand(self, demand: DemandFunction) -> None:
        """Let the players begin with what demand alone says."""
        self.players.begin_with_demand(demand)
        if self._average is not None:
            self._average.players().begin_with_demand(demand)

    def average(self) -> None:
        """Add the weights after a step to their average."""
        if self._average is not None:
            self._average.update()

    def set_learning_rate(self, rate: float) -> None:
        """Set the step size of both players."""
        for optimiser in self.optimisers.values():
            optimiser.set_learning_rate(rate)
        share = rate / self._train.learning_rate
        for divided in self._divided:
            divided.set_learning_rate(share * TABLE_LEARNING_RATE)

    def to_checkpoint(self) -> dict[str, Any]:  # Any: see run.Checkpoint
        """Return everything as tensors and plain values."""
        averaged = {} if self._average is None else {"average": self._average.to_checkpoint()}
        return {
            "players": self.players.state_dict(),
            "optimisers": {name: one.state_dict() for name, one in self.optimisers.items()},
            **averaged,
            "divided": [divided.state_dict() for divided in self._divided],
        }

    def restore(self, checkpoint: dict[str, Any]) -> None:  # Any: see run.Checkpoint
        """Load the result of `to_checkpoint`."""
        self.players.load_state_dict(checkpoint["players"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(checkpoint["optimisers"][name])
        if self._average is not None:
            self._average.restore(checkpoint["average"])
        for divided, state in zip(self._divided, checkpoint["divided"], strict=True):
            divided.load_state_dict(state)

    def _divide(self) -> tuple[RowOptimiser, ...]:
        """Divide both players' item vectors among the processes."""
        optimisers = []
        for layer in (
            self.players.generator.output_layer,
            self.players.discriminator.scoring_layer,
        ):
            table = ShardedTable(layer.vectors, learning_rate=TABLE_LEARNING_RATE)
            layer.vectors = table  # type: ignore[assignment] # it stands for an nn.Embedding
            optimisers.append(table.optimiser())
        return tuple(optimisers)
