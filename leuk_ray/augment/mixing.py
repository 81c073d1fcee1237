"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019), with counter-based parameters.

A sample is mixed with the next one of its global batch, whatever worker trains on that: its
parameters are a hash of (seed, uid, copy index) and its partner is in the epoch plan, so that
training is the same at any number of workers, and a sample can be replayed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import beta
from torch import Tensor

from leuk_ray.augment.keys import MIX, uniform
from leuk_ray.augment.settings import AugmentSettings
from leuk_ray.utils.device import to_device


class Mix(NamedTuple):
    """How N samples are mixed with their partners.

    share: (N,) float32, the samples' own part of label and loss, 0.5 to 1.
    box: (N, 4) int32, left, top, right, bottom in pixels, what CutMix takes from the partner whole;
        empty where the sample is blended by Mixup.
    """

    share: Tensor
    box: Tensor

    def to(self, device: torch.device) -> Mix:
        """Copy to a device."""
        return Mix(to_device(self.share, device), to_device(self.box, device))


def mix_parameters(
    settings: AugmentSettings, *, seed: int, keys: np.ndarray, copy_index: np.ndarray, side: int
) -> Mix | None:
    """Compute how a batch is mixed; None where the settings do not mix.

    Args:
        settings: `mixup` and `cutmix`; where both are set, a sample takes either with p 0.5.
        seed, keys, copy_index, side: see `policies.augment_tensors`.
    """
    if not settings.mixes:
        return None
    u = uniform(seed, keys, copy_index, 4, MIX)
    cut = np.full(len(keys), settings.cutmix > 0)
    if settings.mixup and settings.cutmix:
        cut = u[:, 3] < 0.5
    alpha = np.where(cut, settings.cutmix, settings.mixup)
    share = beta.ppf(u[:, 0], alpha, alpha)
    share = np.maximum(share, 1 - share)  # a sample stays mostly itself: its own label is counted
    edge = np.where(cut, np.floor(side * np.sqrt(1 - share)), 0).astype(np.int64)
    corner = np.floor(u[:, 1:3] * (side - edge + 1)[:, None]).astype(np.int64)
    box = np.concatenate([corner, corner + edge[:, None]], axis=1)
    share = np.where(cut, 1 - (edge / side) ** 2, share)
    return Mix(torch.from_numpy(share.astype(np.float32)), torch.from_numpy(box.astype(np.int32)))


def mix_images(images: Tensor, partners: Tensor, mix: Mix) -> Tensor:
    """Blend images with their partners, or paste boxes of these into them.

    Args:
        images, partners: (N, C, S, S) floating point.
        mix: of the N samples, on their device.
    """
    place = torch.arange(images.shape[-1], device=images.device)
    left, top, right, bottom = mix.box[:, :, None].unbind(1)
    across, down = (place >= left) & (place < right), (place >= top) & (place < bottom)  # (N, S)
    inside = (down[:, :, None] & across[:, None, :])[:, None]
    pasted = (left < right)[:, :, None, None]
    blend = torch.where(pasted, (~inside).to(images.dtype), mix.share[:, None, None, None])
    return torch.lerp(partners, images, blend.to(images.dtype))
