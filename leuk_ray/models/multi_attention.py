"""Multi-attention head of saeed2022: the last block of a timm backbone becomes two branches."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from leuk_ray.models.attention import (
    AttendedAverage,
    ChannelSpatialPooling,
    WeightedAttentionAverage,
)
from leuk_ray.models.settings import Attention, Merge

_GROUPS = 8


class MultiAttentionHead(nn.Module):
    """Pool by attention, merge, normalise, classify: the head of saeed2022 (eq 7-12).

    Both branches see the same feature map and run in parallel. Their vectors are
    concatenated or added, go through BatchNorm (or GroupNorm) and a fully connected layer with ELU,
    and end in `num_classes` logits (softmax belongs to the loss).
    """

    def __init__(
        self,
        channels: int,
        *,
        attention: Attention,
        merge: Merge,
        reduction: int,
        hidden: int,
        head_norm: Literal["batch", "group"] = "batch",
        dropout: float,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_branches(channels, attention, reduction))
        self.merge = merge
        width = channels * (len(self.branches) if merge == "concat" else 1)
        self.norm = nn.BatchNorm1d(width) if head_norm == "batch" else GroupNorm(width)
        self.hidden = nn.Linear(width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, num_classes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W), or pooled (N, C) -> logits (N, num_classes), embedding (N, hidden)."""
        pooled = [branch(features) for branch in self.branches]
        merged = torch.cat(pooled, dim=1) if self.merge == "concat" else torch.stack(pooled).sum(0)
        embedding = nn.functional.elu(self.hidden(self.norm(merged)))
        return self.classifier(self.dropout(embedding)), embedding


class GroupNorm(nn.GroupNorm):
    """Normalize each cell's vector over 8 groups of channels, or as many as divide its width."""

    def __init__(self, channels: int) -> None:
        super().__init__(math.gcd(_GROUPS, channels), channels)


def _branches(channels: int, attention: Attention, reduction: int) -> list[nn.Module]:
    """Say what pools the feature map; with no attention the backbone has pooled it already."""
    if attention == "none":
        return [nn.Identity()]
    if attention in ("se", "eca", "cbam"):
        return [AttendedAverage(attention, channels, reduction)]
    branches: list[nn.Module] = []
    if attention in ("channel_spatial", "multi"):
        branches.append(ChannelSpatialPooling(channels, reduction))
    if attention in ("weighted_average", "multi"):
        branches.append(WeightedAttentionAverage(channels))
    return branches
