"""ALL-IDB: fields `im/ImXXX_Y.jpg` (1) and cells `img/ImXXX_Y.tif` (2); Y is 1 ALL, 0 healthy.

The numbers of the two are not related, and neither names a patient; `slides` finds which
cells were cut from which field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from leuk_ray.datasets.layouts.catalogue import SYNTHETIC_FILES, Catalogue, LayoutOptions, Row
from leuk_ray.datasets.layouts.listing import Rejection, find_files
from leuk_ray.utils.errors import DataError, unreadable

FIELDS = "all-idb1"
CELLS = "all-idb2"

Shows = Literal["cells", "fields", "both"]

_PLACE = {name: re.compile(rf"(?:^|/){name}/[^/]+$") for name in ("im", "img")}
_FIELD = re.compile(r"(?:^|/)im/(Im\d+)_(\d)\.jpe?g$", re.IGNORECASE)
_CELL = re.compile(r"(?:^|/)img/(Im\d+)_(\d)\.tiff?$", re.IGNORECASE)


def all_idb1(root: Path, _: LayoutOptions) -> Catalogue:
    """Full fields."""
    return _all_idb(root, fields=True, cells=False)


def all_idb2(root: Path, _: LayoutOptions) -> Catalogue:
    """Cut cells."""
    return _all_idb(root, fields=False, cells=True)


def all_idb(root: Path, _: LayoutOptions) -> Catalogue:
    """Read both, distinguished by the column `source`."""
    return _all_idb(root, fields=True, cells=True)


def read_centroids(path: Path) -> list[tuple[int, int]]:
    """Read centres (x, y) of the blasts of a field in pixels, one `x y` a line of a .xyc file.

    Raises:
        UserError: the file cannot be read or a line is not two whole numbers.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(error, f"{path}: cannot be read ({error}); give a .xyc file") from error
    centroids = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            x, y = (int(float(part)) for part in line.split())
        except (ValueError, OverflowError) as error:
            message = f"{path}, line {number}: {line.strip()[:40]!r} is not `x y`; mend the line"
            raise DataError(message) from error
        centroids.append((x, y))
    return centroids


def shown_in(sources: Iterable[str | None]) -> Shows:
    """Say whether images of these sources show single cells, whole fields of view, or both."""
    found = {source == FIELDS for source in sources}
    return "both" if len(found) > 1 else ("fields" if True in found else "cells")


def _all_idb(root: Path, *, fields: bool, cells: bool) -> Catalogue:
    found = find_files(root, ["*.xyc", *SYNTHETIC_FILES])
    other = None if fields and cells else _PLACE["img" if fields else "im"]
    if other is not None:  # the other set of the two is no business of this layout
        detail = f"belongs to {CELLS if fields else FIELDS}"
        found.skipped += [Rejection(p, "layout", detail) for p in found.images if other.search(p)]
        found.images = [path for path in found.images if not other.search(path)]
    return Catalogue.of((_row(path) for path in found.images), found)


def _row(path: str) -> Row | Rejection:
    if match := _FIELD.search(path):
        source = FIELDS
    elif match := _CELL.search(path):
        source = CELLS
    elif any(place.search(path) for place in _PLACE.values()):
        return Rejection(path, "name", "is not ImXXX_Y.jpg in im/ or ImXXX_Y.tif in img/")
    else:
        return Rejection(path, "place", "is in no folder that the layout knows: im/, img/")
    name, digit = match.groups()
    if digit not in "01":
        return Rejection(path, "name", f"{name}_{digit}: the last digit must be 1 ALL or 0 healthy")
    if source == FIELDS and digit == "0":
        centroids = Path(path).parent.parent / "xyc" / f"{Path(path).stem}.xyc"
        if centroids.is_file() and read_centroids(centroids):
            detail = f"{name}_0 is named healthy, but {centroids.name} lists blasts"
            return Rejection(path, "label_disagrees", detail)
    uid = f"{source}_{name}_{digit}"
    return {
        "uid": uid,
        "path": path,
        "label": int(digit),
        "source": source,
        "source_image": uid if source == FIELDS else None,
    }
