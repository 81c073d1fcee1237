"""One folder a class: `ALL/cell1.png`, `healthy/cell2.png`; `ALL/P7/cell1.png` names subject P7."""

from __future__ import annotations

from pathlib import Path

from leuk_ray.datasets.layouts.catalogue import (
    Catalogue,
    LayoutOptions,
    Rejection,
    Row,
    beginning,
    image_files,
)
from leuk_ray.errors import UserError

_ALL = {"1", "all", "blast", "blasts", "leukemia", "leukaemia", "positive"}
_HEALTHY = {"0", "benign", "healthy", "hem", "negative", "normal"}


def folders(root: Path, options: LayoutOptions) -> Catalogue:
    """List class folders.

    Raises:
        UserError: fewer than two classes, or it is not clear which of them are ALL.
    """
    paths, unreadable = image_files(root)
    above, source = beginning(root), root.resolve().name
    folders_of = (path.removeprefix(above).split("/")[:-1] for path in paths)
    classes = sorted({folders[0] for folders in folders_of if folders})
    positive = _positive(root, classes, options.positive) if paths else set()
    catalogue = Catalogue.of(
        _row(path, path.removeprefix(above), positive, source) for path in paths
    )
    catalogue.rejected += unreadable
    return catalogue


def _positive(root: Path, classes: list[str], named: tuple[str, ...]) -> set[str]:
    if len(classes) < 2:
        found = f"only the folder {classes[0]}" if classes else "no folder"
        raise UserError(f"{root}: holds {found} with images; make one folder a class, two or more")
    if named:
        if unknown := sorted(set(named) - set(classes)):
            raise UserError(
                f"--positive {unknown[0]}: there is no such folder in {root}; "
                f"choose from {', '.join(classes)}"
            )
        if set(named) == set(classes):
            raise UserError(f"--positive: names every folder of {root}; leave the healthy ones out")
        return set(named)
    known = {name for name in classes if name.lower() in _ALL}
    others = {name for name in classes if name.lower() in _HEALTHY}
    if len(classes) == 2 and len(known) + len(others) >= 1 and len(known) < 2 and len(others) < 2:
        return known or set(classes) - others
    raise UserError(
        f"{root}: which of {', '.join(classes)} are ALL? Say it with --positive NAME[,NAME]"
    )


def _row(path: str, place: str, positive: set[str], source: str) -> Row | Rejection:
    parts = place.split("/")
    if len(parts) < 2:
        return Rejection(path, "place", "lies in no class folder")
    return {
        "uid": Path(place).with_suffix("").as_posix(),
        "path": path,
        "label": int(parts[0] in positive),
        "subject": parts[1] if len(parts) > 2 else None,
        "source": source,
    }
