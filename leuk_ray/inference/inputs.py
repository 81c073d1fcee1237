"""Images as callers hold them: paths, bytes, PIL images, arrays of pixels."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import PIL.Image
from PIL import ImageOps

from leuk_ray.datasets.images import BadImageError
from leuk_ray.inference.files import find_images, image_bytes
from leuk_ray.io.locations import name_of, parse
from leuk_ray.io.storage import is_file
from leuk_ray.utils.errors import DataError

Content = str | Path | bytes | PIL.Image.Image | np.ndarray
ImageInput = Content | tuple[str, Content]
NamedImage = tuple[str, Content]

_SINGLE = (str, Path, bytes, PIL.Image.Image, np.ndarray)
_MODES = ("RGB", "L", "P", "PA", "LA", "RGBA", "1")  # which `images.read` takes from a file


def named_images(images: ImageInput | Iterable[ImageInput]) -> list[NamedImage]:
    """Name every image: by its file, by its path where two share a name, or by its number.

    Args:
        images: see `Classifier.predict`.

    Raises:
        UserError: a path where nothing is, or an image of another kind.
    """
    stack = isinstance(images, np.ndarray) and images.ndim == 4
    several = [images] if isinstance(images, _SINGLE) and not stack else images
    if not isinstance(several, Iterable):
        raise _unknown(several)
    named: list[NamedImage] = []
    of_path: list[bool] = []
    for number, image in enumerate(several):
        found = _named(image, number)  # pyright: ignore[reportArgumentType] rows of a stack
        named += found
        of_path += [isinstance(image, (str, Path))] * len(found)
    shared = Counter(name for (name, _), path in zip(named, of_path, strict=True) if path)
    return [
        (str(content), content) if path and shared[name] > 1 else (name, content)
        for (name, content), path in zip(named, of_path, strict=True)
    ]


def _named(image: ImageInput, number: int) -> list[NamedImage]:
    if isinstance(image, tuple):
        if len(image) != 2 or not isinstance(image[0], str):
            raise DataError("image: a tuple is a name and the image, as ('cell', pixels)")
        _check(image[1])
        return [image]
    _check(image)
    if isinstance(image, (str, Path)):
        if not str(image):
            raise DataError("image: the path is empty")
        place = parse(str(image))
        if is_file(place):
            return [(name_of(place), place)]
        return [(file.name, file.place) for file in find_images([place]).files]
    return [(f"image {number}", image)]


def _check(image: object) -> None:
    """Raise for what no image can be; one that cannot be read is an item later."""
    if not isinstance(image, _SINGLE):
        raise _unknown(image)
    if isinstance(image, np.ndarray):
        shape = image.shape
        if image.dtype != np.uint8 or image.ndim != 3 or shape[2] != 3 or not image.size:
            raise DataError(
                f"image: is an array of {image.dtype}, {' x '.join(map(str, shape))}; give RGB "
                "pixels as (height, width, 3) uint8"
            )


def _unknown(image: object) -> DataError:
    kind = type(image).__name__
    return DataError(f"image: is {kind}; give a path, bytes, a PIL image or pixels")


def content_bytes(image: Content) -> bytes:
    """Read or make what an image file holds; of pixels a PNG, which keeps each of them.

    A PIL image is what Pillow made of its file: more than 8 bits a sample, further pages and
    damage are not seen in it. Its orientation is applied.

    Raises:
        BadImageError: it cannot be read, or its mode is none that is read from files.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, Path)):
        return image_bytes(parse(str(image)))
    if isinstance(image, np.ndarray):
        image = PIL.Image.fromarray(image)
    if image.mode not in _MODES:
        raise BadImageError("pixel_type", f"is a PIL image of mode {image.mode}")
    out = io.BytesIO()
    try:
        upright = ImageOps.exif_transpose(image)
        profile = image.info.get("icc_profile")
        upright.save(out, "PNG", compress_level=0, icc_profile=profile)
    except (OSError, ValueError, SyntaxError) as error:
        raise BadImageError("truncated", f"Pillow cannot read it ({error})") from error
    return out.getvalue()
