"""Rendered fields of view whose cells' places are known."""

from functools import cache

import numpy as np

from leuk_ray.datasets.synthetic import SyntheticSpec, draw_cells
from leuk_ray.datasets.synthetic_fields import WIDTH, render_field

PIXELS_PER_UM = 8.8  # a red cell of 66 pixels


@cache
def rendered(number: int, cells: int = 5) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """A field, (972, 1296, 3) uint8, and the centres x, y of its cells."""
    drawn = draw_cells(SyntheticSpec(cells=max(2, 2 * cells), subjects=2, seed=number))
    pixels, centers = render_field(drawn[:cells], 5, number)
    return np.ascontiguousarray(pixels[:, :WIDTH]), centers


def box(center: tuple[int, int], half: int = 50) -> tuple[float, float, float, float]:
    """A drawn box around a cell."""
    x, y = center
    return x - half, y - half, x + half, y + half
