"""Which weights decay: those that multiply, not biases and not scales that begin at one.

Weight decay pulls towards zero. Zero is not neutral for a scale of a norm, or for a weight per
domain that multiplies a shared one. The size of a bias needs no limit.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

__all__ = ["decayed"]

_TORCH: Mapping[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("bias",),
    nn.LayerNorm: ("weight", "bias"),
}


def decayed(player: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a player that decay.

    The class attribute `undecayed` of a module names its own parameters that do not decay.
    """
    return [
        parameter
        for module in player.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if name not in getattr(module, "undecayed", _TORCH.get(type(module), ()))
    ]
