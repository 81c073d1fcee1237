"""The detector that needs no training: nuclei by their stain, touching ones split by distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from leuk_ray.fields.detector import Detection, Scale
from leuk_ray.fields.stain import depth, nuclear_stain, optical_density, shrink

WORKING_PIXELS_PER_UM = 5.0
CLUMP_AREA = 400.0  # square micrometres; the nucleus of the largest blasts has 250
_TINY = 1e-6


@dataclass(frozen=True)
class StainDetector:
    """Find nucleated cells by the stain of their nuclei.

    A field is averaged to 5 pixels per micrometre. Otsu's method finds the threshold among pixels
    that are stained like nuclei at all, within limits for fields without a cell. Gaps within a
    nucleus are closed, so the lobes of a granulocyte are one; nuclei that touch are split by
    watershed from the places that lie far inside. Lengths in micrometres, stain in optical
    density.
    """

    name: str = "stain"
    floor: float = 0.2
    """Stain of pixels that Otsu's method sees."""
    lowest: float = 0.3
    highest: float = 0.7
    """Limits of the threshold."""
    gap: float = 1.2
    """Radius by which gaps between lobes are closed."""
    speck: float = 0.4
    """Radius of what is too thin to be part of a nucleus."""
    inner: float = 3.0
    """Radius from which a part is a nucleus of its own; lobes are smaller."""
    apart: float = 2.5
    """Least distance between the middles of two nuclei."""
    least: float = 18.0
    """Area of the smallest nucleus, square micrometres; platelets are smaller."""
    least_at_border: float = 0.6
    """Share of that area that suffices where the border cuts the nucleus."""
    margin: float = 1.5
    """What a box adds around a nucleus on each side, for the cytoplasm."""

    def detect(self, pixels: np.ndarray, scale: Scale) -> list[Detection]:
        """Find the cells of a field, (H, W, 3) uint8 sRGB, from top to bottom."""
        from skimage.filters import gaussian
        from skimage.measure import regionprops

        factor = min(1.0, WORKING_PIXELS_PER_UM / scale.pixels_per_um)
        per_um = scale.pixels_per_um * factor
        stain = gaussian(nuclear_stain(optical_density(shrink(pixels, factor))), 0.3 * per_um)
        nuclei = self._split(self._nuclei(stain, per_um), per_um)
        height, width = nuclei.shape
        found = []
        for nucleus in regionprops(nuclei, intensity_image=stain):
            top, left, bottom, right = nucleus.bbox
            touches = top == 0 or left == 0 or bottom == height or right == width
            area = float(nucleus.area) / per_um**2
            if area < self.least * (self.least_at_border if touches else 1):
                continue
            box = self._box(nucleus.bbox, per_um, factor, pixels.shape)
            score = self._score(nuclei, stain, nucleus, per_um)
            found.append(Detection(*box, score, area, touches, area > CLUMP_AREA))
        return sorted(found, key=lambda cell: (cell.y0, cell.x0))

    def _nuclei(self, stain: np.ndarray, per_um: float) -> np.ndarray:
        """Which pixels belong to nuclei, (H, W) bool."""
        from scipy.ndimage import (
            binary_closing,
            binary_dilation,
            binary_erosion,
            binary_fill_holes,
        )
        from skimage.filters import threshold_otsu
        from skimage.morphology import disk

        stained = stain[stain > self.floor]
        threshold = self.lowest
        if stained.size and np.ptp(stained) > _TINY:
            threshold = np.clip(threshold_otsu(stained), self.lowest, self.highest)
        gap = max(1, round(self.gap * per_um))
        wide = np.pad(stain > threshold, gap + 1)
        whole = binary_closing(wide, disk(gap))[gap + 1 : -gap - 1, gap + 1 : -gap - 1]
        speck = disk(max(1, round(self.speck * per_um)))
        # What the frame cuts goes on behind it.
        return binary_dilation(
            binary_erosion(binary_fill_holes(whole), speck, border_value=1), speck
        )

    def _split(self, nuclei: np.ndarray, per_um: float) -> np.ndarray:
        """Number the nuclei, (H, W) int: 0 is none."""
        from skimage.feature import peak_local_max
        from skimage.filters import gaussian
        from skimage.measure import label
        from skimage.segmentation import watershed

        parts = np.asarray(label(nuclei))
        # Dust and platelets go first: an image can hold more of them than there is time for.
        large = np.bincount(parts.ravel()) >= self.least * self.least_at_border * per_um**2
        nuclei = nuclei & large[parts]
        parts = np.where(nuclei, parts, 0)
        inner = gaussian(depth(nuclei) / per_um, 0.3 * per_um)
        peaks = peak_local_max(
            inner,
            min_distance=max(1, round(self.apart * per_um)),
            exclude_border=False,
            threshold_abs=self.inner,
        )
        peaks = peaks[nuclei[tuple(peaks.T)]]
        middles = np.zeros_like(parts)
        middles[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
        whole = ~np.isin(parts, np.unique(parts[middles > 0]))  # of parts that are not split
        markers = np.where(whole & (parts > 0), parts + len(peaks), middles)
        return watershed(-inner, markers, mask=nuclei)

    def _box(
        self, bbox: tuple[int, ...], per_um: float, factor: float, shape: tuple[int, ...]
    ) -> tuple[int, int, int, int]:
        top, left, bottom, right = bbox
        margin = self.margin * per_um
        return (
            max(0, round((left - margin) / factor)),
            max(0, round((top - margin) / factor)),
            min(shape[1], round((right + margin) / factor)),
            min(shape[0], round((bottom + margin) / factor)),
        )

    def _score(self, nuclei: np.ndarray, stain: np.ndarray, nucleus: Any, per_um: float) -> float:
        """Mean stain of the nucleus above that of the field around its box."""
        top, left, bottom, right = nucleus.bbox
        margin = round(self.margin * per_um)
        around = np.s_[
            max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin
        ]
        outside = stain[around][nuclei[around] == 0]
        beside = float(outside.mean()) if outside.size else 0.0
        return float(np.clip(nucleus.intensity_mean - max(beside, 0.0), 0, 1))
