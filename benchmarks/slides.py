"""Memory and time of `detect` on SYNTHETIC slides of growing size; is each cell found once?

    python benchmarks/slides.py [--sides 5000 10000 20000]

Needs the extra `slides`. A slide is a mosaic of ten rendered fields, a third of which is left
white, written as a TIFF of JPEG tiles without being held in memory.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import tifffile
from scipy.spatial import KDTree

from leuk_ray.datasets.synthetic import SyntheticSpec, draw_cells
from leuk_ray.datasets.synthetic_fields import HEIGHT, WIDTH, render_field

_TILE = 256
_PER_UM = 8.8
_CELLS, _DIFFERENT = 6, 10
_WHITE = 240
_NEAR = 60  # pixels, half a cell


class Mosaic:
    """Fields side by side; some are white."""

    def __init__(self, side: int) -> None:
        cells = draw_cells(SyntheticSpec(cells=_CELLS * _DIFFERENT, subjects=_DIFFERENT))
        fields = [
            render_field(cells[_CELLS * i : _CELLS * (i + 1)], 0, i) for i in range(_DIFFERENT)
        ]
        self.fields = [np.ascontiguousarray(pixels[:, :WIDTH]) for pixels, _ in fields]
        self.centers = [centers for _, centers in fields]
        self.blank = np.full((HEIGHT, WIDTH, 3), _WHITE, np.uint8)
        self.side = side

    def number(self, row: int, column: int) -> int | None:
        """Which field lies there; None is white."""
        number = (7 * row + 3 * column) % (_DIFFERENT + 5)
        return number if number < _DIFFERENT else None

    def band(self, y0: int, y1: int) -> np.ndarray:
        """Rows of the whole mosaic, (y1 - y0, side, 3)."""
        parts = []
        for row in range(y0 // HEIGHT, (y1 - 1) // HEIGHT + 1):
            rows = slice(max(y0 - row * HEIGHT, 0), min(y1 - row * HEIGHT, HEIGHT))
            numbers = [self.number(row, column) for column in range(-(-self.side // WIDTH))]
            pieces = [(self.blank if n is None else self.fields[n])[rows] for n in numbers]
            parts.append(np.concatenate(pieces, axis=1)[:, : self.side])
        return np.concatenate(parts)

    def tiles(self) -> Iterator[np.ndarray]:
        for y in range(0, self.side, _TILE):
            band = self.band(y, min(y + _TILE, self.side))
            for x in range(0, self.side, _TILE):
                yield np.ascontiguousarray(band[:, x : x + _TILE])

    def cells(self) -> np.ndarray:
        """Centres x, y of the cells in it, but for those that its edge cuts."""
        found = []
        for row in range(-(-self.side // HEIGHT)):
            for column in range(-(-self.side // WIDTH)):
                if (number := self.number(row, column)) is not None:
                    own = np.array(self.centers[number])
                    found.append(own + np.array([column * WIDTH, row * HEIGHT]))
        all_cells = np.concatenate(found)
        return all_cells[(all_cells < self.side - _NEAR).all(axis=1)]


def measure(side: int, folder: Path) -> str:
    mosaic, path, out = Mosaic(side), folder / f"{side}.tif", folder / f"{side}"
    options: dict[str, Any] = {
        "tile": (_TILE, _TILE),
        "photometric": "rgb",
        "compression": "jpeg",
        "compressionargs": {"level": 92},
        "resolution": (1e4 * _PER_UM, 1e4 * _PER_UM),
        "resolutionunit": "CENTIMETER",
    }
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(mosaic.tiles(), shape=(side, side, 3), dtype=np.uint8, **options)
        file.write(mosaic.band(0, 1000)[:, :1000], subfiletype=1, **options)  # a preview
    size = path.stat().st_size / 2**20
    start = time.perf_counter()
    command = [sys.executable, "-m", "leuk_ray", "detect", str(path), "--out", str(out)]
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # of the largest so far
    boxes = pyarrow.csv.read_csv(out / "detections.csv")
    x, y = ((boxes[f"{a}0"].to_numpy() + boxes[f"{a}1"].to_numpy()) / 2 for a in "xy")
    detections = KDTree(np.stack([x, y], axis=1))
    times = np.array([len(at) for at in detections.query_ball_point(mosaic.cells(), _NEAR)])
    detail = pyarrow.csv.read_csv(out / "fields.csv")["detail"][0]
    return (
        f"| {side} | {size:.0f} | {len(times)} | {(times == 1).sum()} | {(times > 1).sum()} | "
        f"{len(x)} | {seconds:.0f} | {peak:.0f} | {detail} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[5000, 10_000, 20_000])
    print(
        "| side | file, MiB | cells | found once | more often | detections | s | peak MiB | tiles |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for side in sorted(parser.parse_args().sides):
            print(measure(side, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
