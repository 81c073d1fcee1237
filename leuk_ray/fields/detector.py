"""What finds cells in a field, and what it says of each; any detector can stand behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np


@dataclass(frozen=True)
class Scale:
    """Pixels per micrometre of a field.

    uncertainty: relative half-width of its 95% interval; 0 where the scale was given.
    source: `given`; `file` of a slide that says it; or `red_cells` where it was estimated from
    `red_cells` of them. estimated: what red cells say where it was given; None where too few agree.
    """

    pixels_per_um: float
    uncertainty: float = 0.0
    source: Literal["given", "file", "red_cells"] = "given"
    red_cells: int = 0
    estimated: float | None = None


@dataclass(frozen=True)
class Detection:
    """A nucleated cell, or a clump of cells that could not be separated.

    x0, y0, x1, y1: its box in pixels of the field, x1 and y1 exclusive; the nucleus with a margin.
    score: 0 to 1, how much more its nucleus is stained than what surrounds it. area: of the
    nucleus, square micrometres. touches_border: part of it lies outside the field.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    score: float
    area: float
    touches_border: bool
    clump: bool = False

    @property
    def center(self) -> tuple[int, int]:
        """x, y of the middle of its box, pixels."""
        return (self.x0 + self.x1) // 2, (self.y0 + self.y1) // 2


class Detector(Protocol):
    """Finds nucleated cells."""

    name: str

    def detect(self, pixels: np.ndarray, scale: Scale) -> list[Detection]:
        """Find the cells of a field, (H, W, 3) uint8 sRGB, from top to bottom."""
        ...
