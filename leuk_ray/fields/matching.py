"""How many cells a detector found, counted against boxes or centres that people drew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from leuk_ray.evaluation.error_rates import FoundCells
from leuk_ray.fields.annotated import Annotated, Box
from leuk_ray.fields.detector import Detection


@dataclass(frozen=True)
class Matched:
    """Cells of some fields against the annotated ones.

    found: annotated cells with a detection. cells: annotated ones. detections: all.
    missed, wrong: file and box of each annotated cell without a detection, and of each detection
    without an annotated cell. by_field: of each field and label, cells and found.
    """

    found: int
    cells: int
    detections: int
    missed: list[tuple[str, Box]]
    wrong: list[tuple[str, Box]]
    by_field: dict[str, dict[str, FoundCells]] = field(default_factory=dict)

    @property
    def recall(self) -> float | None:
        """Share of the annotated cells that were found; None without one."""
        return self.found / self.cells if self.cells else None

    @property
    def precision(self) -> float | None:
        """Share of the detections that are annotated cells; None without one."""
        return self.found / self.detections if self.detections else None


def match(detections: Mapping[str, Sequence[Detection]], annotated: Annotated) -> Matched:
    """Pair detections with annotated cells, each with one at most, as many as can be paired.

    A pair is a detection whose centre lies in an annotated box; an annotated centre is a box
    without extent, which lies in the detection's box. Clumps are no detections of a cell.

    Args:
        detections: by field.
        annotated: cells by field; a field without an entry was not annotated, and is left out.
    """
    from scipy.optimize import linear_sum_assignment

    found = detected = cells = 0
    missed: list[tuple[str, Box]] = []
    wrong: list[tuple[str, Box]] = []
    by_field: dict[str, dict[str, FoundCells]] = {}
    for file, own in annotated.items():
        one = [cell for cell in detections[file] if not cell.clump]
        boxes = [cell.box for cell in own]
        fits = np.array([[_fits(cell, box) for box in boxes] for cell in one], bool)
        fits = fits.reshape(len(one), len(boxes))
        rows, columns = linear_sum_assignment(fits, maximize=True)
        paired = fits[rows, columns]
        rows, columns = set(rows[paired].tolist()), set(columns[paired].tolist())
        found, detected, cells = found + len(rows), detected + len(one), cells + len(boxes)
        missed += [(file, box) for at, box in enumerate(boxes) if at not in columns]
        wrong += [
            (file, (cell.x0, cell.y0, cell.x1, cell.y1))
            for at, cell in enumerate(one)
            if at not in rows
        ]
        counts = by_field.setdefault(file, {})
        for at, cell in enumerate(own):
            one = FoundCells(cells=1, found=int(at in columns))
            counts[cell.label] = counts.get(cell.label, FoundCells()) + one
    return Matched(found, cells, detected, missed, wrong, by_field)


def _fits(cell: Detection, box: Box) -> bool:
    x0, y0, x1, y1 = box
    if (x0, y0) == (x1, y1):
        return cell.x0 <= x0 < cell.x1 and cell.y0 <= y0 < cell.y1
    x, y = cell.center
    return x0 <= x <= x1 and y0 <= y <= y1
