"""Both players together, and the score that they serve."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossfeed.config import ModelConfig
from crossfeed.model.demand import DemandFunction
from crossfeed.model.discriminator import Discriminator
from crossfeed.model.generator import Generator
from crossfeed.model.player import Player
from crossfeed.model.users.timelines import Timelines
from crossfeed.scorer import Catalogue

__all__ = ["Players"]


class Players(nn.Module):
    """The generator and the discriminator; they share no parameter.

    The discriminator's scoring layer gives s = <u_d, v_i> + b_i + f_d(demand_i) to item i for user
    u in domain d, and the generator's output layer g = <g_d, w_i> + c_i + h_d(demand_i), its
    log-confidence up to a constant per (user, domain). An item without a row has demand alone.
    `model.fuse` chooses the score, which is always one inner product and a bias:

        none      s alone
        residual  s + g: the discriminator has learned the rest that g misses
        sum       (s + g) / 2: each player has learned the whole. The mean of two estimates of a
                  log-probability is close to one; their sum would be twice as sharp.

    In the score that is served, the inner product counts by the personal share: validation says how
    much of the personal part outlasts training, where demand moves on (docs/method.md).
    """

    def __init__(self, catalogue: Catalogue, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self._catalogue = catalogue
        shape = {"rows": catalogue.rows, "domains": len(catalogue.domains)}
        self.generator = Generator(**shape, config=config)
        self.discriminator = Discriminator(**shape, config=config)
        self.register_buffer("personal_share", torch.ones(()))
        self.personal_share: Tensor
        """Factor of the inner product in the score that is served, above 0."""

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

    def begin_with_demand(self, demand: DemandFunction) -> None:
        """Let both players begin with what demand alone says, if they use it."""
        if not self.config.demand:
            return
        for player in (self.discriminator, self.generator):
            player.demand.load_state_dict(demand.state_dict())

    @torch.no_grad()
    def user_vectors(self, timelines: Timelines) -> Tensor:
        """Return (B, E) the user side of the score; (B, 2E) where it is fused."""
        sides = [player.users(timelines) for player in self._served]
        return torch.cat(sides, 1) * (self.config.output_share * self.personal_share)

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """Return (R, E) the item side of the score; (R, 2E) where it is fused."""
        vectors = self.discriminator.layer.item_vectors()
        if self.config.fused:
            vectors = torch.cat([vectors, self.generator.layer.item_vectors()], 1)
        return vectors.clone()

    @torch.no_grad()
    def item_biases(self, domain: int, demand: Tensor) -> Tensor:
        """Return (N,) the part of the score that does not depend on the user.

        Args:
            domain: whose pool it is.
            demand: (N, F) of its items.
        """
        sides = [self._biases(player, domain, demand) for player in self._served]
        return torch.stack(sides).sum(0) * self.config.output_share

    @torch.no_grad()
    def confidence_biases(self, domain: int, demand: Tensor) -> Tensor:
        """Return (N,) the part of the generator's output that does not depend on the user."""
        return self._biases(self.generator, domain, demand)

    @property
    def _served(self) -> tuple[Player, ...]:
        return (self.discriminator, self.generator) if self.config.fused else (self.discriminator,)

    def _biases(self, player: Player, domain: int, demand: Tensor) -> Tensor:
        own = player.layer.biases[self._catalogue.trained_rows(domain)]
        of_demand: Tensor = player.demand(
            demand.unsqueeze(0), torch.tensor([domain], device=demand.device)
        )
        padded: Tensor = nn.functional.pad(own, (0, len(demand) - len(own)))
        return padded + of_demand.squeeze(0)
