"""SE-CNN of bukhari2022 and, without SE, its "traditional CNN" (Table 5)."""

from __future__ import annotations

from collections import OrderedDict

from timm.layers import SEModule  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn
from torch.nn import functional as F

DENSE_UNITS = 128


class SECNN(nn.Module):
    """Three blocks of convolution, ReLU, BatchNorm, SE and max pooling, then a dense layer.

    The convolutions are unpadded 3x3 ones, so 224 pixels become maps of 222, 111, 109, 54,
    52, 26 (eq 1-2). SE squeezes by global average, excites by FC, ReLU, FC, sigmoid, and
    rescales the channels (eq 3-6): timm's SEModule with C / r units in between.

    filters: of the three convolutions.
    reduction: r of the SE blocks; the paper does not state it.
    squeeze_excite: False for the traditional CNN.
    pool_stride: of the 2x2 max pooling.
    """

    def __init__(
        self,
        filters: tuple[int, int, int] = (32, 64, 128),
        *,
        reduction: int = 16,
        squeeze_excite: bool = True,
        pool_stride: int = 2,
    ) -> None:
        super().__init__()
        blocks, channels = [], 3
        for width in filters:
            layers: list[tuple[str, nn.Module]] = [
                ("conv", nn.Conv2d(channels, width, kernel_size=3)),
                ("relu", nn.ReLU()),
                ("norm", nn.BatchNorm2d(width)),
            ]
            if squeeze_excite:
                hidden = max(width // reduction, 1)
                layers.append(("se", SEModule(width, rd_channels=hidden)))
            layers.append(("pool", nn.MaxPool2d(kernel_size=2, stride=pool_stride)))
            blocks.append(nn.Sequential(OrderedDict(layers)))
            channels = width
        self.blocks = nn.Sequential(*blocks)
        self.dense = nn.Linear(channels, DENSE_UNITS)

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in 0..1 -> (N, filters[2], h, w)."""
        return self.blocks(images)

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """Global max pooling and dense ReLU: (N, C, h, w) -> (N, 128)."""
        assert pre_logits, "the classifier is the network's head"
        return F.relu(self.dense(features.amax(dim=(2, 3))))
