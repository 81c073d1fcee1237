"""How many cells a detector found, counted against boxes or centres that people drew."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leuk_ray.fields.detector import Detection
from leuk_ray.utils.errors import ConfigError, DataError, unreadable

Box = tuple[float, float, float, float]
_BOX_COLUMNS = (("x0", "y0", "x1", "y1"), ("xmin", "ymin", "xmax", "ymax"))


@dataclass(frozen=True)
class Matched:
    """Cells of some fields against the annotated ones.

    found: annotated cells with a detection. cells: annotated ones. detections: all.
    missed, wrong: file and box of each annotated cell without a detection, and of each detection
    without a annotated cell.
    """

    found: int
    cells: int
    detections: int
    missed: list[tuple[str, Box]]
    wrong: list[tuple[str, Box]]

    @property
    def recall(self) -> float | None:
        """Share of the annotated cells that were found; None without one."""
        return self.found / self.cells if self.cells else None

    @property
    def precision(self) -> float | None:
        """Share of the detections that are annotated cells; None without one."""
        return self.found / self.detections if self.detections else None


def match(
    detections: Mapping[str, Sequence[Detection]], annotated: Mapping[str, Sequence[Box]]
) -> Matched:
    """Pair detections with annotated cells, each with one at most, as many as can be paired.

    A pair is a detection whose centre lies in a annotated box; a annotated centre is a box without
    extent, which lies in the detection's box. Clumps are no detections of a cell.

    Args:
        detections: by field.
        annotated: boxes by field; a field without an entry has no cell.
    """
    from scipy.optimize import linear_sum_assignment

    found = detected = cells = 0
    missed: list[tuple[str, Box]] = []
    wrong: list[tuple[str, Box]] = []
    for file, everything in detections.items():
        one = [cell for cell in everything if not cell.clump]
        boxes = annotated.get(file, ())
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
    return Matched(found, cells, detected, missed, wrong)


def _fits(cell: Detection, box: Box) -> bool:
    x0, y0, x1, y1 = box
    if (x0, y0) == (x1, y1):
        return cell.x0 <= x0 < cell.x1 and cell.y0 <= y0 < cell.y1
    x, y = cell.center
    return x0 <= x <= x1 and y0 <= y <= y1


def read_annotated(table: Path, label: str | None = None) -> dict[str, list[Box]]:
    """Read boxes (file,x0,y0,x1,y1 or file,xmin,ymin,xmax,ymax) or centres (file,x,y) from a CSV.

    Args:
        table: one row a cell, in pixels of its field.
        label: keep the rows whose column `label` holds it.

    Returns:
        Boxes by file; a centre is a box without extent.

    Raises:
        UserError: the table cannot be read, lacks a column, or has several labels and none is
            chosen.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise unreadable(
            error, f"{table}: cannot be read as CSV ({error}); save it again"
        ) from error
    columns = _columns(table, set(rows[0]) if rows else {"file", "x", "y"})
    labels = sorted({row.get("label") or "" for row in rows})
    if label is None and len(labels) > 1:
        raise ConfigError(
            f"{table}: has the labels {', '.join(labels)}; choose that of nucleated cells with "
            "--annotated-label"
        )
    if label is not None and label not in labels:
        raise ConfigError(f"--annotated-label {label}: {table} has the labels {', '.join(labels)}")
    annotated: dict[str, list[Box]] = {}
    for line, row in enumerate(rows, start=2):
        if label is not None and row["label"] != label:
            continue
        try:
            numbers = [float(row[name]) for name in columns]
        except (TypeError, ValueError) as error:
            raise _no_box(table, line, columns) from error
        in_order = all(low <= high for low, high in zip(numbers, numbers[2:], strict=False))
        if not (in_order and all(map(math.isfinite, numbers))):
            raise _no_box(table, line, columns)
        annotated.setdefault(row["file"], []).append((*numbers, *numbers)[:4])  # pyright: ignore
    return annotated


def _no_box(table: Path, line: int, columns: Sequence[str]) -> DataError:
    what = "all numbers" if len(columns) == 2 else "the numbers of a box, low before high"
    return DataError(f"{table}, line {line}: {', '.join(columns)} are not {what}; correct the row")


def _columns(table: Path, have: set[str]) -> tuple[str, ...]:
    if "file" in have:
        for names in (*_BOX_COLUMNS, ("x", "y")):
            if have.issuperset(names):
                return names
    raise DataError(
        f"{table}: needs the columns file,x0,y0,x1,y1 of boxes or file,x,y of centres; it has "
        f"{', '.join(sorted(have))}"
    )
