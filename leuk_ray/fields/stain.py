"""Optical density of a stained smear, and the stain of nuclei in it."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

_LIGHT = 95  # percentile of each channel that is taken as the light that no stain absorbed
# A Romanowsky stain colours nuclei blue to purple: azure absorbs red and green. Red cells and eosin
# absorb blue and green. Weights chosen on synthetic fields and half of the BCCD fields.
_NUCLEI = np.array([1.0, 0.5, -1.0], np.float32)


def shrink(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Average pixels, (H, W, 3) uint8, to `factor` times their number on each side; at most 1."""
    if factor >= 1:
        return pixels
    height, width = pixels.shape[:2]
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def optical_density(pixels: np.ndarray) -> np.ndarray:
    """Compute the optical density (natural logarithm) of each channel against the background.

    Args:
        pixels: (H, W, 3) uint8 sRGB.

    Returns:
        (H, W, 3) float32, about 0 where nothing is stained.
    """
    light = level_percentiles(pixels, _LIGHT).astype(np.float32)
    return np.log(light + 1) - np.log(pixels.astype(np.float32) + 1)


def level_percentiles(pixels: np.ndarray, percent: float) -> np.ndarray:
    """Compute a percentile of the levels of each channel, (H, W, 3) uint8 -> (3,), by counting."""
    at = percent / 100 * (pixels[..., 0].size - 1)
    lower = math.floor(at)
    counts = [np.bincount(pixels[..., channel].ravel(), minlength=256) for channel in range(3)]
    low, high = np.array(
        [np.searchsorted(np.cumsum(each), [lower, math.ceil(at)], side="right") for each in counts]
    ).T
    return low + (high - low) * (at - lower)


def nuclear_stain(density: np.ndarray) -> np.ndarray:
    """Measure the stain of nuclei, (H, W) float32: 0.4 to 1.5 in nuclei, below 0 in red cells."""
    return density @ _NUCLEI


def depth(mask: np.ndarray) -> np.ndarray:
    """Compute the distance of each pixel of a mask to the outside, (H, W) float64 pixels.

    What the frame cuts goes on behind it.
    """
    from scipy.ndimage import distance_transform_edt

    return np.asarray(distance_transform_edt(np.pad(mask, 1, mode="edge")))[1:-1, 1:-1]
