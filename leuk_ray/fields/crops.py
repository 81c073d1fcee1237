"""Cells cut out of a field at one scale, as files that every command reads."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from leuk_ray.datasets.images import cut_cell
from leuk_ray.fields.detector import Detection, Scale
from leuk_ray.fields.field import CROP_PIXELS, Field


def crop_png(pixels: np.ndarray, cell: Detection, scale: Scale, crop_um: float) -> bytes:
    """Cut out a cell as a PNG file of CROP_PIXELS x CROP_PIXELS pixels.

    All crops have one scale, CROP_PIXELS / crop_um pixels per micrometre, whatever the field's.
    `detect` writes these bytes, and `predict --fields` and the service read them.

    Args:
        pixels: of the field, (H, W, 3) uint8.
        cell: in the field.
        scale: of the field.
        crop_um: side of the square around the cell, micrometres; near a border it moves inwards.
    """
    side = round(crop_um * scale.pixels_per_um)
    square = Image.fromarray(cut_cell(pixels, cell.center, side))
    if square.size != (CROP_PIXELS, CROP_PIXELS):
        square = square.resize((CROP_PIXELS, CROP_PIXELS), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    square.save(out, "PNG", compress_level=1)
    return out.getvalue()


def crops_of(field: Field, pixels: np.ndarray, crop_um: float) -> list[bytes | None]:
    """Cut out the cells of a field; None for a clump, of which no cell can be cut."""
    if field.scale is None:
        return []
    return [
        None if cell.clump else crop_png(pixels, cell, field.scale, crop_um) for cell in field.cells
    ]


def crop_name(field: str, number: int) -> str:
    """Name of a field's crop, the first of which is number 1, below a folder of results."""
    return f"crops/{field}/{number:03d}.png"
