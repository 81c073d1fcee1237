"""Decoded pixels to storage pixels: RGB uint8 of shape (size, size, 3).

The second and last resize, to a network's input, belongs to `models.preprocess`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image
from pydantic import Field

from leuk_ray.datasets.images.decoding import decode
from leuk_ray.datasets.images.headers import MAX_PIXELS, BadImageError
from leuk_ray.utils.settings import Settings

BLACK = 16  # JPEG leaves black backgrounds darker than this; a power of two

Crop = Literal["center", "tight", "pad", "full"]

WHOLE = ("pad", "full")  # crops that show all of a file
SIZES = (16, 4096)  # least and largest side
CENTER_PIXELS = 300  # C-NMC cells lie in the centre of 450 or 600 pixels at one scale


class StorageSettings(Settings):
    """How files become storage pixels; saved in the dataset and in the bundle."""

    size: int = Field(default=300, ge=SIZES[0], le=SIZES[1])
    """Side of the stored square, pixels."""

    crop: Crop = "center"
    """`center`: the central 300 x 300 pixels, which keeps the size of cells. `tight`: the bounding
    box of what is not black. `pad`: the whole image, made square by mirroring it at its shorter
    sides, which keeps shapes, and no uniform border tells the file's size. `full`: the whole image
    squeezed to a square."""


def to_storage(pixels: np.ndarray, settings: StorageSettings) -> np.ndarray:
    """Crop and resize decoded pixels.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        settings: side and crop.

    Returns:
        (size, size, 3) uint8, C-contiguous.

    Raises:
        BadImageError: the image, or what of it is not black, is too long and thin for a square
            around it.
    """
    if settings.crop == "center":
        pixels = _center(pixels)
    elif settings.crop == "tight":
        pixels = _tight(pixels)
    elif settings.crop == "pad":
        pixels = _pad(pixels)
    if pixels.shape[:2] != (settings.size, settings.size):
        square = (settings.size, settings.size)
        pixels = np.asarray(Image.fromarray(pixels).resize(square, Image.Resampling.BICUBIC))
    return np.ascontiguousarray(pixels)


def read(data: bytes, settings: StorageSettings) -> np.ndarray:
    """Make (size, size, 3) uint8 storage pixels of a file's bytes; raises BadImageError."""
    return to_storage(decode(data), settings)


def cell_mask(pixels: np.ndarray) -> np.ndarray:
    """Mask the pixels that show a cell: those with a channel of `BLACK` or more.

    Args:
        pixels: (..., 3) uint8 of a cell on a black background.

    Returns:
        (...) bool.
    """
    # A byte has a bit of 16 or higher where it is 16 or more.
    return (pixels[..., 0] | pixels[..., 1] | pixels[..., 2]) >= BLACK


def cut_cell(field: np.ndarray, center: tuple[int, int], side: int) -> np.ndarray:
    """Cut the square around a centre, moved inwards where it would leave the field.

    Args:
        field: (H, W, 3) uint8.
        center: x, y in pixels.
        side: of the square, pixels.

    Returns:
        (side, side, 3) uint8, less where the field itself is smaller.
    """
    height, width = field.shape[:2]
    top = max(0, min(center[1] - side // 2, height - side))
    left = max(0, min(center[0] - side // 2, width - side))
    return field[top : top + side, left : left + side]


def _center(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    side = min(CENTER_PIXELS, height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def _pad(pixels: np.ndarray) -> np.ndarray:
    """Return the image in the middle of a square, mirrored on both sides of it."""
    height, width = pixels.shape[:2]
    side = _checked(max(height, width))
    top, left = (side - height) // 2, (side - width) // 2
    around = ((top, side - height - top), (left, side - width - left), (0, 0))
    return np.pad(pixels, around, mode="symmetric") if height != width else pixels


def _tight(pixels: np.ndarray) -> np.ndarray:
    """Return the bounding box of what is not black, as a square with a margin of 5%."""
    cell = cell_mask(pixels)
    if not cell.any():
        return pixels
    rows, columns = np.flatnonzero(cell.any(axis=1)), np.flatnonzero(cell.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    side = _checked(int(np.ceil(1.1 * max(bottom - top, right - left))))
    square = np.zeros((side, side, 3), np.uint8)
    y, x = (side - (bottom - top)) // 2, (side - (right - left)) // 2
    square[y : y + bottom - top, x : x + right - left] = pixels[top:bottom, left:right]
    return square


def _checked(side: int) -> int:
    """Return the side of a square, which may have twice as many pixels as an image."""
    if side * side > 2 * MAX_PIXELS:
        raise BadImageError("too_large", "far longer than wide; give one cell")
    return side
