"""The trained players as a `VectorScorer`, for evaluation, export and serving.

Dims: B rows, N items of a pool, E width of the score's vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from crossfeed.config import ModelConfig
from crossfeed.model.players import Players
from crossfeed.model.users.grouping import encoded
from crossfeed.model.users.timelines import build_timelines
from crossfeed.scorer import Catalogue, Floats, Histories, Ints, Moment

__all__ = ["NetworkScorer"]

_GENERATOR = "generator."
"""Prefix of the names of the generator's weights."""


class NetworkScorer:
    """Scores with the players' weights, frozen at construction; inference only."""

    name = "crossfeed"

    def __init__(self, catalogue: Catalogue, players: Players) -> None:
        self.catalogue = catalogue
        self.players = players.eval()

    @classmethod
    def from_state(
        cls, catalogue: Catalogue, config: ModelConfig, state: Mapping[str, Tensor]
    ) -> NetworkScorer:
        """Rebuild a scorer from the tensors that `state` or `served_state` returned."""
        with torch.device("meta"):  # nothing is drawn at random only to be overwritten
            players = Players(catalogue, config)
        if not any(name.startswith(_GENERATOR) for name in state) and not config.fused:
            del players.generator
        players.load_state_dict(dict(state), assign=True)
        return cls(catalogue, players)

    @property
    def config(self) -> ModelConfig:
        """Return the settings of the networks."""
        return self.players.config

    def state(self) -> dict[str, Tensor]:
        """Return all weights by name, on the CPU."""
        return {name: value.cpu() for name, value in self.players.state_dict().items()}

    def served_state(self) -> dict[str, Tensor]:
        """Return the weights that the score needs; the generator's if it is a part of it."""
        return {
            name: value
            for name, value in self.state().items()
            if self.config.fused or not name.startswith(_GENERATOR)
        }

    @cached_property
    def item_vectors(self) -> Floats:
        """Return (R, E) one vector per trained item."""
        return _array(self.players.item_vectors())

    def item_biases(self, domain: int, moment: Moment) -> Floats:
        """Return (N,) one bias per item of the domain's pool."""
        return _array(self.players.item_biases(domain, self._demand(domain, moment)))

    def confidence_biases(self, domain: int, moment: Moment) -> Floats:
        """Return (N,) the part of the generator's output that does not depend on the user."""
        return _array(self.players.confidence_biases(domain, self._demand(domain, moment)))

    def user_vectors(self, histories: Histories, domains: Ints) -> Floats:
        """Return (B, E) each user's vector in the target domain of its row."""
        return encoded(self._encode, histories, domains, width=self.item_vectors.shape[1])

    def score(self, histories: Histories, domain: int, moment: Moment) -> Floats:
        """Return (B, N) the score of each item of the domain's pool for each history."""
        users = self.user_vectors(histories, np.full(len(histories), domain, np.int64))
        vectors = self.item_vectors[self.catalogue.trained_rows(domain)]
        scores = np.tile(self.item_biases(domain, moment), (len(histories), 1))
        scores[:, : len(vectors)] += users @ vectors.T
        return scores

    def _demand(self, domain: int, moment: Moment) -> Tensor:
        demand = torch.from_numpy(moment.demand(domain).astype(np.float32))
        return demand.to(self._device)

    def _encode(self, histories: Histories, domains: Ints) -> Floats:
        timelines = build_timelines(
            histories, domains, catalogue=self.catalogue, config=self.config
        )
        return _array(self.players.user_vectors(timelines.to(self._device)))

    @property
    def _device(self) -> torch.device:
        return next(self.players.parameters()).device


def _array(values: Tensor) -> Floats:
    return values.detach().cpu().numpy().astype(np.float32)
