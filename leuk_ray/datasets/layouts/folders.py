"""One folder a class: `ALL/cell1.png`, `healthy/cell2.png`; `ALL/P7/cell1.png` names subject P7.

Each folder is a class of its own; folders that are all called by known words (see `words`) are the
two classes ALL and healthy. A folder of --classes may be missing: a test set may lack a class.
"""

from __future__ import annotations

from pathlib import Path

from leuk_ray.datasets.layouts.catalogue import (
    SYNTHETIC_FILES,
    Catalogue,
    LayoutOptions,
    Row,
)
from leuk_ray.datasets.layouts.listing import Rejection, beginning, find_files
from leuk_ray.utils.errors import DataError


def folders(root: Path, options: LayoutOptions) -> Catalogue:
    """List class folders.

    Raises:
        UserError: fewer than two classes, or it is not clear which are positive.
    """
    found = find_files(root, SYNTHETIC_FILES)
    above, source = beginning(root), root.resolve().name
    items = [_row(path, path.removeprefix(above), source) for path in found.images]
    if not found.images:
        return Catalogue.of(items, found)
    classes = sorted({str(item["word"]) for item in items if isinstance(item, dict)})
    if len(classes) < 2 and not options.classes.classes:
        held = f"only the folder {classes[0]}" if classes else "no folder"
        raise DataError(
            f"{root}: holds {held} with images; make one folder a class, two or "
            "more, or name the classes of a test set that lacks some with --classes"
        )
    catalogue = Catalogue.labelled(items, options.classes, root, found)
    labels = {row["label"] for row in catalogue.rows}
    if not labels >= {0, 1} and not options.classes.classes:  # the folders' words are collapsed
        missing = "healthy" if 1 in labels else "ALL"
        raise DataError(
            f"{root}: none of the folders {', '.join(classes)} is {missing}; name the folders that "
            "are ALL with --positive and leave the healthy ones out"
        )
    return catalogue


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
