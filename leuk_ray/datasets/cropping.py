"""Cells cut from a field of view by their centroids."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from leuk_ray.datasets import images
from leuk_ray.datasets.images import BadImageError
from leuk_ray.datasets.layouts.all_idb import read_centroids
from leuk_ray.io.storage import directory_by_rename, refuse_existing
from leuk_ray.utils.errors import DataError, unreadable

SIDE = 257  # of ALL-IDB2


def crop_field(field: Path, centroids: Path, out: Path, side: int = SIDE) -> list[Path]:
    """Cut a square around every centroid.

    Args:
        field: image file.
        centroids: .xyc file, one `x y` a line, in pixels of the field.
        out: folder to make.
        side: of the squares, pixels; near a border they move inwards.

    Returns:
        FIELD_1.png, FIELD_2.png and so on in `out`, in the order of the centroids.

    Raises:
        UserError: `out` exists, a file cannot be read, or a centroid lies outside the field.
    """
    refuse_existing(out, "folder of cells")
    try:
        pixels = images.decode(field.read_bytes())
    except (OSError, BadImageError) as error:
        raise unreadable(error, f"{field}: cannot be read ({error}); give an image file") from error
    centers = read_centroids(centroids)
    if not centers:
        raise DataError(f"{centroids}: lists no centroid; there is nothing to cut")
    height, width = pixels.shape[:2]
    for x, y in centers:
        if not (0 <= x < width and 0 <= y < height):
            raise DataError(
                f"{centroids}: centroid {x} {y} lies outside {field} ({width} x {height}); "
                "give the file that belongs to the field"
            )
    names = [f"{field.stem}_{number}.png" for number in range(1, len(centers) + 1)]
    with directory_by_rename(out.absolute(), new="folder of cells") as partial:
        for name, center in zip(names, centers, strict=True):
            Image.fromarray(images.cut_cell(pixels, center, side)).save(partial / name)
    return [out / name for name in names]
