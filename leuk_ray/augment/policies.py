"""Augmentation on the training device: policies by name, parameters by key.

The parameters of a sample are a hash of (seed, uid, draw), apart from their application:
the same key gives the same pixels in any batch, order, feed or worker, and any draw can be
replayed. Kornia applies them as explicit parameters; no generator is hidden anywhere.
"""

from __future__ import annotations

import numpy as np
import torch
from kornia.geometry.transform import warp_affine
from torch import Tensor

from leuk_ray.augment.draws import POLICIES, Draw
from leuk_ray.augment.settings import AugmentSettings, Fill
from leuk_ray.augment.stain import jitter_stain


def apply(images: Tensor, draw: Draw, fill: Fill) -> Tensor:
    """Rotate, scale, flip and shift in one bilinear warp; then stain and brightness.

    Args:
        images: (N, 3, H, W) uint8 or float in 0..255.
        draw: parameters of the N samples.
        fill: what lies outside.

    Returns:
        (N, 3, H, W) float32 in 0..255, of the same memory layout.
    """
    height, width = images.shape[-2:]
    matrices = torch.from_numpy(_matrices(draw, height, width)).to(images.device)
    padding = "zeros" if fill == "black" else "reflection"
    warped = warp_affine(
        images.float(), matrices, (height, width), padding_mode=padding, align_corners=True
    )
    if (draw.stain != 1).any():
        warped = jitter_stain(warped, draw.stain)
    factor = torch.from_numpy(draw.brightness.astype(np.float32)).to(images.device)
    factor = factor.view(-1, 1, 1, 1)
    return (warped * factor).clamp_(0, 255)


def augment(
    images: Tensor, settings: AugmentSettings, *, seed: int, keys: np.ndarray, draws: np.ndarray
) -> Tensor:
    """Augment a batch of (N, 3, H, W) uint8 by the keys of its samples; float32 in 0..255."""
    if settings.policy == "none":
        return images.float()
    draw = POLICIES[settings.policy](seed, keys, draws, images.shape[-1])
    return apply(images, draw, settings.fill)


def _matrices(draw: Draw, height: int, width: int) -> np.ndarray:
    """(N, 2, 3) float32: source to destination pixel coordinates, about the image's centre."""
    theta = np.deg2rad(draw.angle.astype(np.float64))
    # The y axis points down, so a counter-clockwise turn has the sine's sign swapped.
    cos, sin = draw.scale * np.cos(theta), draw.scale * np.sin(theta)
    sign_x, sign_y = np.where(draw.flip_x, -1.0, 1.0), np.where(draw.flip_y, -1.0, 1.0)
    linear = np.stack(
        [np.stack([sign_x * cos, sign_x * sin], -1), np.stack([-sign_y * sin, sign_y * cos], -1)],
        axis=1,
    )
    center = np.asarray([(width - 1) / 2, (height - 1) / 2])
    shift = center - linear @ center + draw.shift * [width, height]
    return np.concatenate([linear, shift[:, :, None]], axis=2).astype(np.float32)
