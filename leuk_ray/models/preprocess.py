"""From storage pixels to a network's input, inside the model graph and saved with it.

The one resize after `images`: training, evaluation, batch and HTTP all run this very module.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Preprocess(nn.Module):
    """Resize and scale (saeed2022: pixels 0-255 at the input, scaling inside the model).

    input_size: side of the network's input, pixels.
    mean, std: of each channel, for pixels scaled to 0..1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, input_size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.input_size = input_size
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 or float in 0..255 -> (N, 3, input_size, input_size) float."""
        images = images.to(self.mean.dtype)
        if images.shape[-1] != self.input_size or images.shape[-2] != self.input_size:
            size = (self.input_size, self.input_size)
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        return (images - self.mean) / self.std
