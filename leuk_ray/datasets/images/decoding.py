"""Decode image files: the same bytes give the same pixels in training, batches and HTTP."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from kornia_rs.io import decode_image_jpegturbo  # pyright: ignore[reportMissingModuleSource]
from PIL import ExifTags, Image, ImageOps, ImagePalette, TiffImagePlugin

from leuk_ray.datasets.images.colour import GREY_MODES, to_srgb
from leuk_ray.datasets.images.headers import BadImageError, open_image


@dataclass(frozen=True)
class Picture:
    """A decoded file.

    pixels: (H, W, 3) uint8, sRGB, oriented as the file says.
    format: JPEG, PNG and so on.
    converted: whether an ICC profile other than sRGB changed the colours.
    """

    pixels: np.ndarray
    format: str
    converted: bool


def decode_picture(data: bytes) -> Picture:
    """Decode one image file.

    Raises:
        BadImageError: what `open_image` refuses, damaged data, transparent pixels, or a colour
            profile that cannot be used.
    """
    image = open_image(data)
    name = "JPEG" if image.format == "MPO" else str(image.format)
    try:
        if name == "JPEG":
            pixels = _decode_jpeg(data)
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
            if not turned and "icc_profile" not in image.info:
                return Picture(pixels, name, converted=False)
            image = _with_pixels(image, pixels)
        else:
            image = _decode_by_pillow(image)
        ImageOps.exif_transpose(image, in_place=True)
        rgb, converted = to_srgb(image)
        return Picture(np.asarray(rgb), name, converted)
    except BadImageError:
        raise
    except Exception as error:
        raise BadImageError("truncated", f"decoding stopped: {error}") from error


def decode(data: bytes) -> np.ndarray:
    """Decode a file by `decode_picture` to its pixels, (H, W, 3) uint8."""
    return decode_picture(data).pixels


def _decode_jpeg(data: bytes) -> np.ndarray:
    """Decode by libjpeg-turbo without Pillow, which hides that data are missing or damaged.

    The pixels are those that Pillow gives, (H, W, 3) uint8.
    """
    try:
        return decode_image_jpegturbo(data, "rgb")
    except Exception as error:
        detail = "the compressed data of this JPEG are damaged or incomplete"
        raise BadImageError("truncated", detail) from error


def _with_pixels(header: Image.Image, pixels: np.ndarray) -> Image.Image:
    """Return decoded pixels as an image that knows the orientation and the profile of its file."""
    image = Image.fromarray(pixels)
    image = image.convert("L") if header.mode == "L" else image
    image.getexif().update(header.getexif())
    if "icc_profile" in header.info:
        image.info["icc_profile"] = header.info["icc_profile"]
    return image


def _decode_by_pillow(image: Image.Image) -> Image.Image:
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode in ("P", "PA"):
        table = image.tag_v2[TiffImagePlugin.COLORMAP]
        if max(table) < 256:  # meant as 8 bits, as libtiff takes it; the standard says 16
            image.palette = ImagePalette.raw("RGB;L", bytes(table))
    image.load()
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    clear = image.convert("LA" if image.mode in GREY_MODES else "RGBA")
    low, high = clear.getchannel("A").getextrema()
    # Programs that know nothing of transparency leave the fourth byte of a BMP's pixels at 0.
    if low != 255 and (image.format != "BMP" or high != 0):
        raise BadImageError("transparent", "has transparent pixels; flatten it first")
    return clear.convert(clear.mode.removesuffix("A"))
