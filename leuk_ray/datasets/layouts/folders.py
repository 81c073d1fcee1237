"""One folder a class: `ALL/cell1.png`, `healthy/cell2.png`; `ALL/P7/cell1.png` names subject P7.

The folder's name is the label: see `words` for the ones that are known without `--positive`.
"""

from __future__ import annotations

from pathlib import Path

from leuk_ray.datasets.layouts.catalogue import (
    SYNTHETIC_FILES,
    Catalogue,
    LayoutOptions,
    Row,
    label_rows,
)
from leuk_ray.datasets.layouts.listing import Rejection, beginning, find_files
from leuk_ray.utils.errors import DataError


def folders(root: Path, options: LayoutOptions) -> Catalogue:
    """List class folders.

    Raises:
        UserError: not both classes, or it is not clear which folders are ALL.
    """
    found = find_files(root, SYNTHETIC_FILES)
    above, source = beginning(root), root.resolve().name
    items = [_row(path, path.removeprefix(above), source) for path in found.images]
    rows = [item for item in items if isinstance(item, dict)]
    if found.images:
        _label(rows, options.positive, root)
    return Catalogue.of(items, found)


def _label(rows: list[Row], positive: tuple[str, ...], root: Path) -> None:
    """Set the labels, and refuse folders that are not two classes."""
    classes = sorted({str(row["word"]) for row in rows})
    if len(classes) < 2:
        held = f"only the folder {classes[0]}" if classes else "no folder"
        raise DataError(f"{root}: holds {held} with images; make one folder a class, two or more")
    label_rows(rows, positive, root)
    labels = {row["label"] for row in rows}
    if not labels >= {0, 1}:
        missing = "healthy" if 1 in labels else "ALL"
        raise DataError(
            f"{root}: none of the folders {', '.join(classes)} is {missing}; name the folders that "
            "are ALL with --positive and leave the healthy ones out"
        )


def _row(path: str, place: str, source: str) -> Row | Rejection:
    parts = place.split("/")
    if len(parts) < 2:
        return Rejection(path, "place", "lies in no class folder")
    return {
        "uid": Path(place).with_suffix("").as_posix(),
        "path": path,
        "word": parts[0],
        "subject": parts[1] if len(parts) > 2 else None,
        "source": source,
    }
