"""Image bytes to storage pixels. The only place that decodes, orients, crops or resizes files.

Storage pixels are RGB uint8 of shape (size, size, 3). The second and last resize, to a
network's input, belongs to `models.preprocess`.
"""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from leuk_ray.settings import Settings

Crop = Literal["center", "tight", "full"]

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 32_000_000
FORMATS = ("BMP", "PNG", "JPEG", "TIFF", "WEBP")
CENTER_PIXELS = 300  # C-NMC cells lie in the centre of 450 or 600 pixels at one scale


class StorageSettings(Settings):
    """How files become storage pixels; saved in the dataset and in the bundle.

    size: side of the stored square, pixels.
    crop: `center` takes the central 300 x 300 pixels, so that cell size is kept (A02);
        `tight` the bounding box of what is not black; `full` the whole image.
    """

    size: int = 300
    crop: Crop = "center"


class BadImageError(ValueError):
    """Bytes that are no usable image. `reason` is a short code, `detail` is for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[BadImageError], tuple[str, str]]:
        return BadImageError, (self.reason, self.detail)


def decode(data: bytes) -> np.ndarray:
    """Decode one image file.

    Returns:
        (H, W, 3) uint8 RGB, oriented as its EXIF tag says.

    Raises:
        BadImageError: empty, not an allowed format, truncated, animated or multi-page,
            transparent, of an unsupported pixel type, or over MAX_BYTES or MAX_PIXELS.
    """
    if not data:
        raise BadImageError("empty", "the file has no bytes")
    if len(data) > MAX_BYTES:
        raise BadImageError("too_large", f"{len(data)} bytes, the limit is {MAX_BYTES}")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BadImageError("too_large", str(error)) from error
    except Exception as error:
        raise BadImageError("not_an_image", f"no {', '.join(FORMATS)} image in it") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImageError("too_large", f"{width} x {height}, the limit is {MAX_PIXELS} pixels")
    if image.mode not in ("RGB", "L", "P", "RGBA", "1"):
        raise BadImageError("pixel_type", f"mode {image.mode}; give 8-bit RGB or greyscale")
    try:
        # n_frames would walk through every page of a TIFF.
        if getattr(image, "is_animated", False):
            raise BadImageError("several_frames", "an animation or several pages; give one image")
        image.load()
        image = ImageOps.exif_transpose(image)
        if "A" in image.getbands() or "transparency" in image.info:
            image = _opaque(image.convert("RGBA"))
        return np.asarray(image.convert("RGB"))
    except BadImageError:
        raise
    except Exception as error:
        raise BadImageError("truncated", f"decoding stopped: {error}") from error


def file_format(data: bytes) -> str:
    """JPEG, PNG and so on, from the header of a file that `decode` accepts."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return str(image.format)


def to_storage(pixels: np.ndarray, settings: StorageSettings) -> np.ndarray:
    """Crop and resize decoded pixels.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        settings: side and crop.

    Returns:
        (size, size, 3) uint8, C-contiguous.

    Raises:
        BadImageError: what is not black is too long and thin for a square around it.
    """
    if settings.crop == "center":
        pixels = _center(pixels)
    elif settings.crop == "tight":
        pixels = _tight(pixels)
    if pixels.shape[:2] != (settings.size, settings.size):
        square = (settings.size, settings.size)
        pixels = np.asarray(Image.fromarray(pixels).resize(square, Image.Resampling.BICUBIC))
    return np.ascontiguousarray(pixels)


def read(data: bytes, settings: StorageSettings) -> np.ndarray:
    """File bytes to (size, size, 3) uint8 storage pixels; raises BadImageError."""
    return to_storage(decode(data), settings)


def cut_cell(field: np.ndarray, center: tuple[int, int], side: int) -> np.ndarray:
    """The square around a centre, moved inwards where it would leave the field.

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


def _opaque(image: Image.Image) -> Image.Image:
    low, _ = image.getchannel("A").getextrema()
    if low != 255:
        raise BadImageError("transparent", "has transparent pixels; flatten it first")
    return image


def _center(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    side = min(CENTER_PIXELS, height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def _tight(pixels: np.ndarray) -> np.ndarray:
    """The bounding box of what is not black, as a square with a margin of 5%."""
    cell = pixels.max(axis=2) > 0
    if not cell.any():
        return pixels
    rows, columns = np.flatnonzero(cell.any(axis=1)), np.flatnonzero(cell.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    side = int(np.ceil(1.1 * max(bottom - top, right - left)))
    if side * side > 2 * MAX_PIXELS:
        raise BadImageError("too_large", "far longer than wide; give one cell")
    square = np.zeros((side, side, 3), np.uint8)
    y, x = (side - (bottom - top)) // 2, (side - (right - left)) // 2
    square[y : y + bottom - top, x : x + right - left] = pixels[top:bottom, left:right]
    return square
