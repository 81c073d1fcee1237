"""Stochastic depth (Huang et al. 2016) by counter-based random numbers.

timm's layer takes numbers of a hidden generator, so that what is dropped depends on how a batch is
shared by workers. Here they are handed in: a hash of (seed, uid, copy index), as in augmentation.
"""

from __future__ import annotations

from timm.layers import DropPath  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn


class CounterDropPath(nn.Module):
    """Skip a residual branch for the samples whose number is below `rate`, in training.

    chance: (N,) in [0, 1), of the samples that come next.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.chance: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        """(N, ...) -> the same; what is kept is divided by 1 - rate."""
        if not self.training:
            return features
        assert self.chance is not None, "stochastic depth needs a number for each sample"
        kept = (self.chance >= self.rate).to(features.dtype) / (1 - self.rate)
        return features * kept.view(-1, *[1] * (features.ndim - 1))


def count_on(backbone: nn.Module) -> nn.Module:
    """Put a CounterDropPath in the place of each layer of timm's that drops paths."""
    for name, layer in list(backbone.named_modules()):
        if isinstance(layer, DropPath):
            backbone.set_submodule(name, CounterDropPath(layer.drop_prob))
    return backbone


def drop_paths(network: nn.Module) -> list[CounterDropPath]:
    """List the layers of a network that drop paths, from input to output."""
    return [layer for layer in network.modules() if isinstance(layer, CounterDropPath)]
