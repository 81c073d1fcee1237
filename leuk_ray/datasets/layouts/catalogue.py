"""What every layout makes: rows to prepare, and files that it could not name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from leuk_ray.errors import UserError

CATALOGUE_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("path", pa.string()),
        ("label", pa.int8()),
        ("subject", pa.string()),
        ("source", pa.string()),
        ("source_image", pa.string()),
        ("official_split", pa.string()),
        ("site", pa.string()),
        ("stain", pa.string()),
        ("side", pa.int32()),  # the width and height that the layout promises
    ]
)
IMAGE_SUFFIXES = (".bmp", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")

Row = dict[str, object]


@dataclass(frozen=True)
class Rejection:
    """A file that is not in the catalogue or not in the dataset, and why."""

    path: str
    reason: str
    detail: str


@dataclass
class Catalogue:
    """What a layout found: rows to prepare and image files it could not name."""

    rows: list[Row] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)

    @classmethod
    def of(cls, found: Iterable[Row | Rejection]) -> Catalogue:
        """Collect; of two rows with one uid the second is rejected."""
        catalogue = cls()
        seen: dict[object, object] = {}
        for row in found:
            if isinstance(row, Rejection):
                catalogue.rejected.append(row)
            elif row["uid"] in seen:
                detail = f"uid {row['uid']} is taken by {seen[row['uid']]}"
                catalogue.rejected.append(Rejection(str(row["path"]), "uid_twice", detail))
            else:
                seen[row["uid"]] = row["path"]
                catalogue.rows.append(row)
        return catalogue

    def table(self) -> pa.Table:
        """The rows in CATALOGUE_SCHEMA, ordered by uid."""
        return pa.Table.from_pylist(self.rows, schema=CATALOGUE_SCHEMA).sort_by("uid")


@dataclass(frozen=True)
class LayoutOptions:
    """What names alone do not say.

    positive: names of the classes that are ALL; all others are healthy.
    columns: of a manifest, our name -> its column, such as label -> diagnosis.
    """

    positive: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, positive: str | None, columns: str | None) -> LayoutOptions:
        """From `NAME[,NAME]` and `OURS=ITS[,OURS=ITS]`.

        Raises:
            UserError: a column without `=`.
        """
        names = tuple(name.strip() for name in (positive or "").split(",") if name.strip())
        mapping = {}
        for item in filter(None, (columns or "").split(",")):
            ours, separator, its = item.partition("=")
            if not separator:
                raise UserError(f"--columns {item}: write OURS=ITS, as label=diagnosis")
            mapping[ours.strip()] = its.strip()
        return cls(names, mapping)


Layout = Callable[[Path, LayoutOptions], Catalogue]


def image_files(root: Path) -> tuple[list[str], list[Rejection]]:
    """Paths under `root` that end as images do, sorted, and folders that cannot be listed.

    Linked folders are followed, each real folder once, so that a loop of links ends.
    """
    paths: list[str] = []
    rejected: list[Rejection] = []

    def unlisted(error: OSError) -> None:
        why = error.strerror or str(error)
        rejected.append(Rejection(str(error.filename), "unreadable", f"folder: {why}"))

    seen: set[str] = set()
    for folder, folders, names in os.walk(root, onerror=unlisted, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        above = beginning(Path(folder))
        paths += [above + name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    return sorted(paths), rejected


def beginning(folder: Path) -> str:
    """What the paths of the files in `folder` begin with, `/` included."""
    return (folder / "x").as_posix()[:-1]
