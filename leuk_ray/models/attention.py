"""The attention of saeed2022, equation by equation. Feature maps are (N, C, H, W)."""

from __future__ import annotations

from typing import Literal

import torch
from timm.layers import EcaModule, SEModule  # pyright: ignore[reportPrivateImportUsage]
from timm.layers.cbam import CbamModule
from torch import Tensor, nn


class ChannelAttention(nn.Module):
    """Channel attention, eq 7: sigmoid(W1 ReLU(W0 avgpool F) + W1 ReLU(W0 maxpool F)).

    One MLP is shared by both pools; its hidden layer has channels / reduction units (the
    paper names neither activation nor size: ReLU and 16, as in CBAM).
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.w0 = nn.Linear(channels, max(channels // reduction, 1), bias=False)
        self.w1 = nn.Linear(max(channels // reduction, 1), channels, bias=False)

    def attention(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 1, 1) in 0..1."""
        average = self.w1(torch.relu(self.w0(features.mean(dim=(2, 3)))))
        maximum = self.w1(torch.relu(self.w0(features.amax(dim=(2, 3)))))
        return torch.sigmoid(average + maximum)[:, :, None, None]

    def forward(self, features: Tensor) -> Tensor:
        """Rescale the channels: (N, C, H, W) -> (N, C, H, W)."""
        return features * self.attention(features)


class SpatialAttention(nn.Module):
    """Spatial attention, eq 8: sigmoid(conv3x3([mean over C; max over C]))."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size=3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 1, H, W) in 0..1."""
        pooled = torch.cat(
            [features.mean(dim=1, keepdim=True), features.amax(dim=1, keepdim=True)], dim=1
        )
        return torch.sigmoid(self.conv(pooled))


def global_weighted_average(features: Tensor, attention: Tensor) -> Tensor:
    """Compute GWAP, eq 9: sum(attention * F) / sum(attention) over the positions of each channel.

    Args:
        features: (N, C, H, W).
        attention: (N, 1, H, W), positive.

    Returns:
        (N, C).
    """
    return (features * attention).sum(dim=(2, 3)) / attention.sum(dim=(2, 3))


class ChannelSpatialPooling(nn.Module):
    """The first branch: channel, then spatial attention (eq 7-8), ended by GWAP (eq 9)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.channel = ChannelAttention(channels, reduction)
        self.spatial = SpatialAttention()

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C)."""
        features = self.channel(features)
        return global_weighted_average(features, self.spatial(features))


class WeightedAttentionAverage(nn.Module):
    """The second branch, eq 10-12 (Felbo 2017): e_t = h_t w, a = softmax(e), v = sum a_t h_t.

    The "time steps" t of an image are its H * W positions; w is (C, 1).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Linear(channels, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C)."""
        positions = features.flatten(2).transpose(1, 2)  # (N, T, C)
        weights = torch.softmax(self.score(positions), dim=1)  # (N, T, 1)
        return (weights * positions).sum(dim=1)


class AttendedAverage(nn.Module):
    """The global average after a block from the literature, for comparison (saeed2022, Table 2).

    se: squeeze and excitation (Hu 2018); eca: efficient channel attention (Wang 2020);
    cbam: channel, then spatial attention (Woo 2018); all as timm has them.
    """

    def __init__(
        self, block: Literal["se", "eca", "cbam"], channels: int, reduction: int = 16
    ) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        if block == "se":
            self.block: nn.Module = SEModule(channels, rd_channels=hidden)
        elif block == "eca":
            self.block = EcaModule(channels)
        else:
            self.block = CbamModule(channels, rd_channels=hidden)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C)."""
        return self.block(features).mean(dim=(2, 3))
