"""Networks that form the user's vector in a target domain; the item side is the same for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from crossfeed.config import ModelConfig
from crossfeed.model.users.networks.mmoe import MMoENetwork
from crossfeed.model.users.networks.pepnet import PEPNetwork
from crossfeed.model.users.networks.ple import PLENetwork
from crossfeed.model.users.networks.shared_bottom import SharedBottomNetwork
from crossfeed.model.users.networks.star import STARNetwork
from crossfeed.model.users.networks.translation import TranslationNetwork

__all__ = ["NETWORKS"]

NETWORKS: Mapping[str, Callable[[int, ModelConfig], nn.Module]] = {
    "translation": TranslationNetwork,
    "shared-bottom": SharedBottomNetwork,
    "mmoe": MMoENetwork,
    "ple": PLENetwork,
    "star": STARNetwork,
    "pepnet": PEPNetwork,
}
"""Name in `model.discriminator` -> network, built from the number of domains and the settings.

A network maps timelines and the table of item vectors to (B, E), each row's user in its domain."""
