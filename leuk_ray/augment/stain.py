"""Stain jitter in optical density (Ruifrok and Johnston 2001; Tellez 2018)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Methylene blue and eosin of a Giemsa stain, unit vectors of optical density over R, G, B, as
# in ImageJ's Colour Deconvolution; the third is at right angles to both.
_BLUE, _RED = (0.834750233, 0.513556283, 0.196330403), (0.092789, 0.954111, 0.283111)
_STAINS = np.asarray([_BLUE, _RED, np.cross(_BLUE, _RED)])


def mixing_matrices(factors: np.ndarray) -> np.ndarray:
    """Compute matrices that unmix optical density into stains, scale each and mix again, (N, 3, 3).

    Args:
        factors: (N, 2) on the amount of the blue and the red stain.
    """
    amounts = np.concatenate([factors, np.ones((len(factors), 1))], axis=1)
    return np.linalg.inv(_STAINS) @ (amounts[:, :, None] * _STAINS)


def jitter_stain(images: Tensor, matrices: Tensor) -> Tensor:
    """Make each stain of a cell stronger or weaker, as more or less dye would (Beer-Lambert).

    Args:
        images: (N, 3, H, W) float in 0..255.
        matrices: (N, 3, 3) float, see `mixing_matrices`.

    Returns:
        (N, 3, H, W) float in 0..255. White stays white, and the black around a segmented
        cell stays black: it is no dye.
    """
    density = -torch.log(images.clamp(min=1) / 255)
    changed = torch.einsum("nchw,ncd->ndhw", density, matrices)
    black = images.amax(dim=1, keepdim=True) < 1
    return torch.where(black, images, 255 * torch.exp(-changed)).clamp(0, 255)
