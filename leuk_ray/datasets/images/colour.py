"""Colours of a file to sRGB, by its ICC profile."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from leuk_ray.datasets.images.headers import BadImageError

_SAME = 2  # levels: a profile that moves no colour by more is sRGB, so pixels stay as stored
GREY_MODES = ("1", "L", "LA")


def to_srgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """Convert a decoded image to RGB with sRGB colours.

    Without a profile, pixels are taken as sRGB. Colorimetric, with black kept black.

    Returns:
        The image in mode RGB, and whether its profile changed colours.

    Raises:
        BadImageError: a profile that cannot be read or belongs to another kind of image, since
            nothing then tells what the colours are.
    """
    if "icc_profile" not in image.info:
        return _as_mode(image, "RGB"), False
    mode, transform = _transform(image.info["icc_profile"] or b"", image.mode in GREY_MODES)
    if transform is None:
        return _as_mode(image, "RGB"), False
    return transform.apply(_as_mode(image, mode)), True


def _as_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


@lru_cache(maxsize=8)
def _transform(profile: bytes, grey: bool) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Return the mode a profile applies to, and the way to sRGB; None if it changes nothing."""
    try:
        opened = ImageCms.getOpenProfile(io.BytesIO(profile))
        space: str = opened.profile.xcolor_space  # pyright: ignore[reportAttributeAccessIssue]
        mode = {"RGB ": "RGB", "GRAY": "L"}.get(space)
        if mode is None or (mode == "L" and not grey):
            raise ValueError(f"it is for {space.strip()} images")
        transform = ImageCms.buildTransform(
            opened,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, ValueError, OSError, TypeError) as error:
        detail = f"its ICC profile cannot be used ({error}); convert the image to sRGB"
        raise BadImageError("colour_profile", detail) from error
    probe = _probe(mode)
    moved = np.asarray(transform.apply(probe), np.int16) - np.asarray(probe.convert("RGB"))
    return mode, None if np.abs(moved).max() <= _SAME else transform


def _probe(mode: str) -> Image.Image:
    """Every grey level, or 17 levels of each colour, as an image."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = np.linspace(0, 255, 17).round().astype(np.uint8)
    return Image.fromarray(
        np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(17, -1, 3)
    )
