"""Both players together, and the score that they serve."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from crossfeed.config import ModelConfig
from crossfeed.model.discriminator import Discriminator
from crossfeed.model.generator import Generator
from crossfeed.model.player import Player
from crossfeed.model.users.timelines import Timelines
from crossfeed.scorer import Catalogue

__all__ = ["Players"]


class Players(nn.Module):
    """The generator and the discriminator; they share no parameter.

    The discriminator's scoring layer gives s = <u_d, v_i> + b_i to item i for user u in domain d,
    and the generator's output layer g = <g_d, w_i> + c_i, its log-confidence up to a constant per
    (user, domain); u_d and g_d depend on the time of the request. `model.fuse` chooses the score,
    which is always one inner product:

        none      s alone
        residual  s + g: the discriminator has learned the rest that g misses
        sum       (s + g) / 2: each player has learned the whole. The mean of two estimates of a
                  log-probability is close to one; their sum would be twice as sharp.
    """

    def __init__(self, catalogue: Catalogue, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self._sizes = torch.from_numpy(np.diff(catalogue.offsets))  # (D,) items of each domain
        domains = len(catalogue.domains)
        self.generator = Generator(items=catalogue.items, domains=domains, config=config)
        self.discriminator = Discriminator(items=catalogue.items, domains=domains, config=config)

    def use_sparse_gradients(self) -> set[str]:
        """Restrict the gradients of the item tables to the rows that were looked up.

        Returns:
            The names of these parameters.
        """
        layers = {
            "generator.output_layer": self.generator.output_layer,
            "discriminator.scoring_layer": self.discriminator.scoring_layer,
        }
        for layer in layers.values():
            layer.vectors.sparse = True
        return {f"{name}.{table}" for name in layers for table in ("vectors.weight", "biases")}

    def set_time_span(self, first: int, last: int) -> None:
        """Set the first and last time (ms) of the periods of demand."""
        for player in (self.discriminator, self.generator):
            player.demand.span.copy_(torch.tensor([first, last]))

    @torch.no_grad()
    def user_vectors(self, timelines: Timelines, times: Tensor | None = None) -> Tensor:
        """Return (B, E) the user side of the score; (B, 2E) where it is fused.

        The biases hold the demand at the end of training. The users' vectors hold the difference at
        another time.
        """
        sides = []
        for player in self._served:
            side = player.read(timelines)
            if times is not None:
                domains = timelines.target_domains
                side = side + (player.demand(times, domains) - player.demand(None, domains))
            sides.append(side)
        return torch.cat(sides, 1) * self.config.output_share

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """Return (I, E) the item side of the score; (I, 2E) where it is fused."""
        vectors = self.discriminator.layer.item_vectors()
        if self.config.fused:
            vectors = torch.cat([vectors, self.generator.layer.item_vectors()], 1)
        return vectors.clone()

    @torch.no_grad()
    def item_biases(self) -> Tensor:
        """Return (I,) the part of the score that does not depend on the user."""
        biases = self._biases(self.discriminator)
        if self.config.fused:
            biases = biases + self.confidence_biases()
        return biases * self.config.output_share

    @torch.no_grad()
    def confidence_biases(self) -> Tensor:
        """Return (I,) the part of the generator's output that does not depend on the user."""
        return self._biases(self.generator)

    @property
    def _served(self) -> tuple[Player, ...]:
        return (self.discriminator, self.generator) if self.config.fused else (self.discriminator,)

    def _biases(self, player: Player) -> Tensor:
        """Return (I,) biases, with the demand at the end of training."""
        layer, device = player.layer, player.layer.biases.device
        demand = player.demand(None, torch.arange(len(self._sizes), device=device))  # (D, E)
        tables = torch.split(layer.item_vectors(), self._sizes.tolist())
        moved = [vectors @ vector for vectors, vector in zip(tables, demand, strict=True)]
        return layer.biases + torch.cat(moved)
