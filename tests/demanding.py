"""Players that weigh demand without any training."""

from __future__ import annotations

from torch import nn

from crossfeed.model.players import Players


def with_demand(players: Players) -> Players:
    """Let both players weigh demand, each in its own way."""
    for player in (players.discriminator, players.generator):
        function = player.demand
        for parameter in function.parameters():
            nn.init.normal_(parameter, std=0.2)
        function.least.fill_(-20.0)
        function.most.fill_(20.0)
        function.middle.fill_(-4.0)
        function.scale.fill_(4.0)
    return players
