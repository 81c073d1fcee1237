"""Augmentation on the training device: policies by name, counter-based parameters.

The parameters of a sample are a hash of (seed, uid, copy index), apart from their application:
a sample gets the same pixels in any batch, order, loader or worker, and can be replayed. Kornia
applies them as explicit parameters; there is no hidden generator.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from kornia.geometry.transform import remap
from torch import Tensor

from leuk_ray.augment.params import POLICIES, AugmentParams
from leuk_ray.augment.settings import AugmentSettings, Fill
from leuk_ray.augment.stain import jitter_stain, mixing_matrices
from leuk_ray.utils.device import to_device


class AugmentTensors(NamedTuple):
    """A batch's augmentation as tensors: all that `apply` needs.

    warp: (N, 2, 3) float32, destination to source, in coordinates -1..1 between the centres
        of the corner pixels. Inverted here, since to invert on a GPU waits for the GPU.
    stain: (N, 3, 3) float32, see `stain.mixing_matrices`; None where no stain changes.
    brightness: (N,) float32, multiplies.
    """

    warp: Tensor
    stain: Tensor | None
    brightness: Tensor

    @classmethod
    def of(cls, params: AugmentParams, height: int, width: int) -> AugmentTensors:
        """Convert `params` for images of a size, in host memory."""
        stain = None
        if (params.stain != 1).any():
            stain = torch.from_numpy(mixing_matrices(params.stain).astype(np.float32))
        warp = torch.from_numpy(_warps(params, height, width).astype(np.float32))
        return cls(warp, stain, torch.from_numpy(params.brightness.astype(np.float32)))

    def to(self, device: torch.device) -> AugmentTensors:
        """Copy to a device."""
        stain = None if self.stain is None else to_device(self.stain, device)
        return AugmentTensors(
            to_device(self.warp, device), stain, to_device(self.brightness, device)
        )


def augment_tensors(
    settings: AugmentSettings, *, seed: int, keys: np.ndarray, copy_index: np.ndarray, side: int
) -> AugmentTensors | None:
    """Compute a batch's augmentation; None where the policy is `none`.

    Args:
        settings: the policy.
        seed: of the run.
        keys: (N,) uint64, one for each uid (`plan.uid_keys`).
        copy_index: (N,) uint64, which copy of its row each sample is.
        side: of the images, pixels.
    """
    if settings.policy == "none":
        return None
    return AugmentTensors.of(POLICIES[settings.policy](seed, keys, copy_index, side), side, side)


def apply(images: Tensor, params: AugmentTensors | None, fill: Fill) -> Tensor:
    """Rotate, scale, flip and shift in one bilinear warp; then stain and brightness.

    Args:
        images: (N, 3, H, W) uint8 or float in 0..255.
        params: of the N samples, on the images' device; None changes nothing.
        fill: what lies outside.

    Returns:
        (N, 3, H, W) float32 in 0..255, of the same memory layout.
    """
    images = images.float()
    if params is None:
        return images
    map_x, map_y = _maps(params.warp, *images.shape[-2:])
    images = remap(
        images,
        map_x,
        map_y,
        padding_mode="zeros" if fill == "black" else "reflection",
        align_corners=True,
        normalized_coordinates=True,
    )
    if params.stain is not None:
        images = jitter_stain(images, params.stain)
    return images.mul_(params.brightness.view(-1, 1, 1, 1)).clamp_(0, 255)


def _maps(warp: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
    """Where each pixel comes from, x and y, (N, height, width): `affine_grid` by its two terms.

    A product of matrices over all pixels, as there, takes half as long as the warp itself.
    """
    x = torch.linspace(-1, 1, width, device=warp.device)
    y = torch.linspace(-1, 1, height, device=warp.device)
    columns, rows = warp[:, :, :1] * x, warp[:, :, 1:2] * y + warp[:, :, 2:]  # (N, 2, side)
    return (rows[:, :, :, None] + columns[:, :, None, :]).unbind(1)


def _warps(params: AugmentParams, height: int, width: int) -> np.ndarray:
    """(N, 2, 3) float64: see AugmentTensors.warp."""
    theta = np.deg2rad(params.angle.astype(np.float64))
    # The y axis points down, so a counter-clockwise turn has the sine's sign swapped.
    cos, sin = params.scale * np.cos(theta), params.scale * np.sin(theta)
    sign_x, sign_y = np.where(params.flip_x, -1.0, 1.0), np.where(params.flip_y, -1.0, 1.0)
    pixels = np.zeros((len(theta), 3, 3))  # source to destination, about the image's centre
    pixels[:, 0] = np.stack([sign_x * cos, sign_x * sin, params.shift[:, 0] * width], -1)
    pixels[:, 1] = np.stack([-sign_y * sin, sign_y * cos, params.shift[:, 1] * height], -1)
    pixels[:, 2, 2] = 1
    half = np.diag([(width - 1) / 2, (height - 1) / 2, 1.0])  # -1..1 to pixels from the centre
    return np.linalg.inv(np.linalg.inv(half) @ pixels @ half)[:, :2]
