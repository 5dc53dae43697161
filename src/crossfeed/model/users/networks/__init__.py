"""Networks that form the user's vector in a target domain; the item side is the same for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from torch import Tensor, nn

from crossfeed.config import ModelConfig
from crossfeed.model.users.networks.mmoe import MMoENetwork
from crossfeed.model.users.networks.pepnet import PEPNetwork
from crossfeed.model.users.networks.ple import PLENetwork
from crossfeed.model.users.networks.shared_bottom import SharedBottomNetwork
from crossfeed.model.users.networks.star import STARNetwork
from crossfeed.model.users.networks.translation import TranslationNetwork
from crossfeed.model.users.timelines import Timelines

__all__ = ["NETWORKS", "UserNetwork"]


class UserNetwork(Protocol):
    """Forms (B, E) user vectors from timelines and the table of item vectors."""

    def __call__(self, timelines: Timelines, item_table: nn.Embedding) -> Tensor:
        """Return (B, E) each row's user in its target domain."""


NETWORKS: Mapping[str, Callable[[int, ModelConfig], nn.Module]] = {
    "translation": TranslationNetwork,
    "shared-bottom": SharedBottomNetwork,
    "mmoe": MMoENetwork,
    "ple": PLENetwork,
    "star": STARNetwork,
    "pepnet": PEPNetwork,
}
"""Name in `model.discriminator` -> network, built from the number of domains and the settings."""
