"""Rendered slides: TIFFs in tiles, with cells on the border of our tiles."""

from pathlib import Path
from typing import Any

import numpy as np

from tests.support.small_fields import PIXELS_PER_UM, rendered

SEAM = 1296  # where two of our tiles meet in a smear of 2592 pixels
UM = 1 / PIXELS_PER_UM
OME = {
    "axes": "YXS", "PhysicalSizeX": UM, "PhysicalSizeXUnit": "µm",
    "PhysicalSizeY": UM, "PhysicalSizeYUnit": "µm",
}  # fmt: skip


def smear() -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Two fields and three cells on the seam, (972, 2592, 3) uint8, and the centres x, y of all."""
    left, centers = rendered(0, 6)
    right, more = rendered(1, 6)
    pixels = np.concatenate([left, right], axis=1)
    centers = [*centers, *((x + SEAM, y) for x, y in more)]
    inner = [(x, y) for x, y in centers if 70 < x < SEAM - 70]
    planted = [(SEAM - 8, 200), (SEAM, 500), (SEAM + 8, 800)]
    for (from_x, from_y), (x, y) in zip(inner, planted, strict=False):
        patch = pixels[from_y - 64 : from_y + 64, from_x - 64 : from_x + 64].copy()
        pixels[y - 64 : y + 64, x - 64 : x + 64] = patch
    return pixels, centers + planted


def write_slide(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    """A slide with a level of half its size: .svs with JPEG and its scale, .ome.tif or .tif."""
    import tifffile

    ome = path.name.endswith(".ome.tif")
    settings: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib"}
    if path.suffix == ".svs":
        size = f"{pixels.shape[1]}x{pixels.shape[0]}"
        text = f"Aperio Image Library v11\n{size} (256x256) JPEG Q=95|AppMag = 80|MPP = {UM}"
        settings |= {"description": text, "compression": "jpeg", "compressionargs": {"level": 95}}
    elif ome:
        settings |= {"metadata": OME}
    settings |= options
    with tifffile.TiffWriter(path, ome=ome) as file:
        file.write(pixels, subifds=int(ome), **settings)
        settings.pop("metadata", None)
        file.write(pixels[::2, ::2], subfiletype=1, **settings)
    return path
