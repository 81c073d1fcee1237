"""A field with its cells boxed, for people to look at."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw

from leuk_ray.fields.field import Field
from leuk_ray.fields.quality import REASONS

_CELL, _CLUMP, _TEXT = "#00c853", "#ff6d00", "#b00020"
LONGEST = 1600  # pixels of the picture
_NAMED = 24  # pixels of a box that has room for its number
_QUALITY = 85


def draw(field: Field, pixels: np.ndarray) -> bytes:
    """Draw the cells of a field, numbered, or why it has none, as a JPEG file.

    Args:
        field: what was found.
        pixels: of the field, or of it at LONGEST pixels already, (H, W, 3) uint8.
    """
    image = Image.fromarray(pixels)
    factor = min(1.0, LONGEST / max(field.width, field.height))
    size = (round(field.width * factor), round(field.height * factor))
    if image.size != size:
        image = image.resize(size)
    pen = ImageDraw.Draw(image)
    for number, cell in enumerate(field.cells, start=1):
        color = _CLUMP if cell.clump else _CELL
        box = [factor * value for value in (cell.x0, cell.y0, cell.x1 - 1, cell.y1 - 1)]
        pen.rectangle(box, outline=color, width=2)
        if box[2] - box[0] >= _NAMED:
            text = f"{number} clump" if cell.clump else str(number)
            pen.text((box[0] + 4, box[1] + 2), text, fill=color, font_size=16)
    if field.reasons:
        lines = "\n".join(REASONS[reason] for reason in field.reasons)
        pen.text((8, 8), f"refused: {lines}", fill=_TEXT, font_size=18)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()
