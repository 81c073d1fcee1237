"""Images as callers hold them: paths, bytes, PIL images, arrays of pixels."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import PIL.Image

from leuk_ray.inference.files import find_images
from leuk_ray.io.locations import Location, name_of, parse
from leuk_ray.io.storage import is_file
from leuk_ray.utils.errors import DataError

Content = str | Path | bytes | PIL.Image.Image | np.ndarray
ImageInput = Content | tuple[str, Content]
NamedImage = tuple[str, Location | bytes]

_SINGLE = (str, Path, bytes, PIL.Image.Image, np.ndarray, tuple)


def named_images(images: ImageInput | Iterable[ImageInput]) -> list[NamedImage]:
    """Name every image: by its file, or by its number.

    Args:
        images: see `Classifier.predict`.

    Returns:
        Of each its name, and where it lies or the content of an image file.

    Raises:
        UserError: a path where nothing is, or an image of another kind.
    """
    stack = isinstance(images, np.ndarray) and images.ndim == 4
    several = [images] if isinstance(images, _SINGLE) and not stack else images
    named: list[NamedImage] = []
    for number, image in enumerate(several):  # pyright: ignore[reportArgumentType]
        named += _named(image, number)
    return named


def _named(image: ImageInput, number: int) -> list[NamedImage]:
    if isinstance(image, tuple):
        name, content = image
        return [(name, _content(content))]
    if isinstance(image, (str, Path)):
        place = parse(str(image))
        if is_file(place):
            return [(name_of(place), place)]
        return [file.named for file in find_images([place]).files]
    return [(f"image {number}", _content(image))]


def _content(image: Content) -> Location | bytes:
    """What an image file would hold; of pixels a PNG, which keeps each of them."""
    if isinstance(image, (str, Path)):
        return parse(str(image))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            shape = " x ".join(map(str, image.shape))
            raise DataError(
                f"image: is an array of {image.dtype}, {shape}; give RGB pixels as "
                "(height, width, 3) uint8"
            )
        image = PIL.Image.fromarray(image)
    if isinstance(image, PIL.Image.Image):
        out = io.BytesIO()
        image.save(out, "PNG", compress_level=0, icc_profile=image.info.get("icc_profile"))
        return out.getvalue()
    if not isinstance(image, bytes):
        raise DataError(
            f"image: is {type(image).__name__}; give a path, bytes, a PIL image or pixels"
        )
    return image
