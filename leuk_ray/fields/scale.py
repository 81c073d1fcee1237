"""The scale of a field from its red cells, which are 7.5 micrometres wide."""

from __future__ import annotations

import math

import numpy as np

from leuk_ray.fields.detector import Scale
from leuk_ray.fields.stain import depth, nuclear_stain, optical_density, shrink

RED_CELL_UM = 7.5
_UNEXPLAINED = 0.25  # 95%: mean diameters of people, spreading, overlaps; 0.3 on BCCD boxes
# Longer side in pixels, of which the first that shows red cells is used; in a field that is not
# too large or too coarse the second does.
_VIEWS = (800, 1600)
_MIN_RADIUS = 4.0  # pixels of a view
_NUCLEUS = 0.3  # nuclear stain from which a pixel is no red cell's
_EDGE = 0.7  # of the threshold between red cells and background: their rims are pale
_ROUND = 0.88  # solidity of a hole that is the pale middle of a red cell
_MAX_HOLES = 5000  # more than red cells in a view; each takes half a millisecond
_MIN_CONTRAST = 0.04  # optical density
_MIN_CELLS, _MAX_SPREAD = 4, 1.2
_Z = 1.96


def estimate_scale(pixels: np.ndarray) -> Scale | None:
    """Estimate pixels per micrometre from the red cells of a field.

    The radius of a red cell is the largest distance to the background inside it, so cells that
    overlap count too; the estimate is the median over the area that they cover.

    Args:
        pixels: (H, W, 3) uint8 sRGB.

    Returns:
        The scale with its uncertainty; None where too few red cells agree on it.
    """
    longest = max(pixels.shape[:2])
    for side in _VIEWS:
        factor = min(1.0, side / longest)
        radii = _radii(shrink(pixels, factor))
        if len(radii) and np.median(radii) >= _MIN_RADIUS:
            return _from_radii(radii / factor)
        if factor == 1:
            break
    return None


def _radii(pixels: np.ndarray) -> np.ndarray:
    """Radii of red cells, in pixels."""
    from scipy.ndimage import binary_dilation
    from skimage.feature import peak_local_max
    from skimage.filters import gaussian, threshold_otsu

    density = optical_density(pixels)
    nuclei = gaussian(nuclear_stain(density), 1) > _NUCLEUS
    others = np.logical_not(binary_dilation(nuclei, iterations=4))
    green = gaussian(density[..., 1], 1)
    if not others.any() or np.ptp(green[others]) < _MIN_CONTRAST:
        return np.empty(0)
    threshold = _EDGE * float(threshold_otsu(green[others]))
    if threshold < _MIN_CONTRAST:
        return np.empty(0)
    cells = _without_pale_middles(green > threshold) & others
    inside = depth(cells)
    peaks = peak_local_max(gaussian(inside, 1), min_distance=4, threshold_abs=3)
    return inside[tuple(peaks.T)]


def _without_pale_middles(cells: np.ndarray) -> np.ndarray:
    from skimage.measure import label, regionprops

    filled = cells.copy()
    height, width = cells.shape
    holes = regionprops(label(~cells, connectivity=1))
    if len(holes) > _MAX_HOLES:
        return filled
    for hole in holes:
        top, left, bottom, right = hole.bbox
        inner = top > 0 and left > 0 and bottom < height and right < width
        if inner and (hole.area < 20 or hole.solidity > _ROUND):
            filled[hole.slice][hole.image] = True
    return filled


def _from_radii(radii: np.ndarray) -> Scale | None:
    ordered = np.sort(radii)
    share = np.cumsum(ordered**2) / np.sum(ordered**2)
    low, middle, high = ordered[np.searchsorted(share, [0.25, 0.5, 0.75]).clip(max=len(radii) - 1)]
    number = np.sum(radii**2) ** 2 / np.sum(radii**4)  # effective, by area
    spread = (high - low) / middle
    if number < _MIN_CELLS or spread > _MAX_SPREAD:
        return None
    # Standard error of a median of normal values whose quartiles are these.
    error = 1.253 * spread / 1.349 / math.sqrt(number)
    uncertainty = math.hypot(_Z * error, _UNEXPLAINED)
    return Scale(float(2 * middle / RED_CELL_UM), uncertainty, "red_cells", round(number))
