"""Why a field gets no result: it is no sharp, well exposed field of a stained smear."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from leuk_ray.fields.detector import Detection, Scale
from leuk_ray.fields.stain import level_percentiles, optical_density, shrink

REASONS = {
    "unreadable": "the file cannot be read as an image",
    "not_a_smear": "its colours are not those of a stained smear",
    "overexposed": "three quarters of it are saturated white; lower the exposure",
    "underexposed": "it is too dark, or its background is black; give a bright field",
    "out_of_focus": "it is out of focus",
    "scale_unknown": "too few red cells agree on its scale; give the pixels per micrometre",
    "scale_missing": "the slide does not say how large its pixels are; give the pixels per "
    "micrometre",
    "scale_differs": "its red cells, or what the slide states, contradict its pixels per "
    "micrometre",
    "too_coarse": "it has fewer than 2 pixels per micrometre; use a stronger objective",
    "too_small": "it shows less than 800 square micrometres at its scale; give a whole field of "
    "view in focus, or its pixels per micrometre",
    "too_large": "it is larger than a field of view; cut it into fields",
    "single_cell": "it shows one cell in its middle: a crop, not a field of view",
    "clumps": "most of its nuclei lie in clumps that cannot be separated",
}

WARNINGS = {
    "scale_doubtful": "its red cells, or what the slide states, suggest other pixels per "
    "micrometre, by more than they are uncertain",
    "tiles_refused": "parts of the slide were refused, and their cells are not counted",
}

_VIEW = 800  # longer side in pixels of what colours are measured on
_STAINED = 0.3  # optical density, all channels together
_COLOUR = 0.2  # by how much another channel may absorb more than green: stains of a smear do not
_MAX_ALIEN = 0.2  # share of stained pixels; 0.00 in all BCCD fields, 0.38 and more in photographs
_GREY, _MAX_GREY = 0.06, 0.5  # range of optical density over channels; share of stained pixels
_WHITE, _MAX_WHITE = 250, 0.75
_MIN_LIGHT = 100  # mean level of the unstained background
_FOCUS_PIXELS_PER_UM = 5.0
# Out of focus: edges are not steep for their contrast, and keep their slopes when smoothed more. Of
# BCCD fields blurred by 1 um the first is at most 0.85 per um and the second 1.21; in focus, also
# resized, recoloured and compressed, the second is 1.34 and more.
_MIN_SHARPNESS = 0.9
_SMOOTHED_UM, _MIN_SLOPES = (0.2, 0.5), 1.28
_MIN_PIXELS_PER_UM = 2.0
_MIN_AREA = 800.0  # square micrometres: two crops
_MAX_WORKING_PIXELS = 2**23  # at 5 pixels per micrometre: a third of a square millimetre
SAME_SCALE = 1.7  # factor between given and estimated
# A crop of one cell: nearly square, and the cell in its middle fills much of it.
_SQUARE, _MIDDLE, _CROP_SHARE = 1.15, 0.15, 0.2


def colour_reasons(pixels: np.ndarray) -> list[str]:
    """Find the reasons that exposure and colours of a field give, whatever its scale.

    Args:
        pixels: (H, W, 3) uint8 sRGB.
    """
    view = shrink(pixels, _VIEW / max(pixels.shape[:2]))
    # NumPy works faster on whole channels than along the three of each pixel.
    red, green, blue = (view[..., channel] for channel in range(3))
    if (np.minimum(np.minimum(red, green), blue) >= _WHITE).mean() > _MAX_WHITE:
        return ["overexposed"]
    if level_percentiles(view, 95).mean() < _MIN_LIGHT:
        return ["underexposed"]
    density = np.moveaxis(optical_density(view), 2, 0)
    red, green, blue = density[:, density[0] + density[1] + density[2] > _STAINED]
    if not len(green):
        return []
    # Eosin and azure both absorb green the most, or nearly so.
    least, most = np.minimum(red, blue), np.maximum(red, blue)
    alien = green < most - _COLOUR
    grey = np.maximum(most, green) - np.minimum(least, green) < _GREY
    return ["not_a_smear"] if alien.mean() > _MAX_ALIEN or grey.mean() > _MAX_GREY else []


def scale_reasons(pixels: np.ndarray, given: float | None, estimated: Scale | None) -> list[str]:
    """Find the reasons that the scale of a field gives.

    Args:
        pixels: (H, W, 3) uint8 sRGB.
        given: pixels per micrometre; None uses the estimate.
        estimated: from red cells; None where they do not show it.
    """
    if given is None and estimated is None:
        return ["scale_unknown"]
    if given is not None and estimated is not None:
        ratio = given / estimated.pixels_per_um
        if max(ratio, 1 / ratio) > SAME_SCALE:
            return ["scale_differs"]
    per_um = given or (estimated.pixels_per_um if estimated else 0.0)
    if per_um < _MIN_PIXELS_PER_UM:
        return ["too_coarse"]
    height, width = pixels.shape[:2]
    area = height * width / per_um**2
    if area < _MIN_AREA:
        return ["too_small"]
    working = min(per_um, _FOCUS_PIXELS_PER_UM)
    return ["too_large"] if area * working**2 > _MAX_WORKING_PIXELS else []


def scale_warnings(given: float | None, estimated: Scale | None) -> list[str]:
    """Find what is doubtful in a given scale that is not refused: keys of WARNINGS.

    Args:
        given: pixels per micrometre; None uses the estimate.
        estimated: from red cells; None where they do not show it.
    """
    if given is None or estimated is None:
        return []
    ratio = given / estimated.pixels_per_um
    return ["scale_doubtful"] if max(ratio, 1 / ratio) > 1 + estimated.uncertainty else []


def focus_reasons(pixels: np.ndarray, scale: Scale) -> list[str]:
    """Return `out_of_focus` where edges are flat, and smoothing hardly makes them flatter."""
    from scipy.ndimage import gaussian_filter

    factor = min(1.0, _FOCUS_PIXELS_PER_UM / scale.pixels_per_um)
    green = optical_density(shrink(pixels, factor))[..., 1]
    low, high = np.percentile(green, [5, 99.5])
    stained = green > low + 0.15 * (high - low)
    contrast = np.percentile(green[stained], 90) - low if stained.any() else 0.0
    if contrast < _COLOUR:  # hardly anything in it that could be sharp
        return []
    per_um = scale.pixels_per_um * factor

    def slopes(smoothed: float) -> np.ndarray:
        """Of stained pixels, per pixel, after smoothing by so many pixels."""
        smooth = gaussian_filter(green, smoothed)
        down, across = np.gradient(smooth, axis=0), np.gradient(smooth, axis=1)
        return np.hypot(down[stained], across[stained])

    sharpness = np.percentile(slopes(0.7), 98) * per_um / contrast
    fine, coarse = (np.percentile(slopes(um * per_um), 90) for um in _SMOOTHED_UM)
    blurred = sharpness < _MIN_SHARPNESS and fine < _MIN_SLOPES * coarse
    return ["out_of_focus"] if blurred else []


def cell_reasons(found: Sequence[Detection], shape: tuple[int, ...]) -> list[str]:
    """Find the reasons that what was found gives: a crop of one cell, or clumps.

    Args:
        found: in the field.
        shape: (H, W, ...) of the field.
    """
    if not found:
        return []
    clumped = sum(cell.area for cell in found if cell.clump)
    if clumped > sum(cell.area for cell in found) / 2:
        return ["clumps"]
    largest, (height, width) = max(found, key=lambda cell: cell.area), shape[:2]
    x, y = largest.center
    middle = abs(x / width - 0.5) < _MIDDLE and abs(y / height - 0.5) < _MIDDLE
    square = max(height, width) < _SQUARE * min(height, width)
    size = max(largest.x1 - largest.x0, largest.y1 - largest.y0)
    large = size > _CROP_SHARE * min(height, width)
    return ["single_cell"] if middle and square and large else []
