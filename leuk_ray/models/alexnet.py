"""AlexNet as torchvision has it (timm has none), a comparator of both papers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import AlexNet

EMBEDDING = 4096


class AlexNetBackbone(AlexNet):
    """AlexNet without its last layer, in timm's protocol."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier[-1] = nn.Identity()

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) normalised -> (N, 256, h, w)."""
        return self.features(images)

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """Pool to 6x6 and two fully connected layers: (N, 256, h, w) -> (N, 4096)."""
        assert pre_logits, "the classifier is the network's head"
        return self.classifier(torch.flatten(self.avgpool(features), 1))
