"""Compound scaling: equations 1 to 5 of saeed2022, which are those of EfficientNet.

Tan and Le 2019, https://arxiv.org/abs/1905.11946.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Found by Tan and Le's grid search: alpha * beta^2 * gamma^2 is about 2 (equation 4), and each is
# at least 1 (equation 5).
ALPHA, BETA, GAMMA = 1.2, 1.1, 1.15
BASE_SIDE = 224  # pixels, of EfficientNet-B0


@dataclass(frozen=True)
class CompoundScaling:
    """How EfficientNet-B0 grows with phi; 2 gives the layers and channels of B3."""

    phi: float

    @property
    def depth(self) -> float:
        """Times the layers of each stage: alpha^phi (equation 1)."""
        return ALPHA**self.phi

    @property
    def width(self) -> float:
        """Times the channels: beta^phi (equation 2)."""
        return BETA**self.phi

    @property
    def resolution(self) -> float:
        """Times the side of the input: gamma^phi (equation 3)."""
        return GAMMA**self.phi

    @property
    def flops(self) -> float:
        """Times the FLOPs, about 2^phi (equation 4)."""
        return self.depth * self.width**2 * self.resolution**2

    def repeats(self, base: int) -> int:
        """Blocks of a stage that has `base` in EfficientNet-B0."""
        return math.ceil(base * self.depth)

    def channels(self, base: int) -> int:
        """Channels of a stage that has `base` in EfficientNet-B0: a multiple of 8, at least 90%."""
        scaled = base * self.width
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * scaled else rounded + 8

    @property
    def text(self) -> str:
        """The rest of a sentence that begins with the network's name."""
        return (
            f"EfficientNet-B0 by compound scaling with phi = {self.phi:g}: {self.depth:.2f} times "
            f"the layers, {self.width:.2f} times the channels, {self.resolution:.2f} times the "
            f"side ({BASE_SIDE * self.resolution:.0f} pixels), {self.flops:.1f} times the FLOPs."
        )
