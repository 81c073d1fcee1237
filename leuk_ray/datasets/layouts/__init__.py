"""Folders of image files to a catalogue: one row an image, before any pixel is read."""

from __future__ import annotations

from pathlib import Path

from leuk_ray.datasets.layouts.all_idb import all_idb, all_idb1, all_idb2
from leuk_ray.datasets.layouts.c_nmc import c_nmc, parse_c_nmc
from leuk_ray.datasets.layouts.catalogue import (
    CATALOGUE_SCHEMA,
    SYNTHETIC_MARKER,
    Catalogue,
    Layout,
    LayoutOptions,
)
from leuk_ray.datasets.layouts.folders import folders
from leuk_ray.datasets.layouts.listing import IMAGE_SUFFIXES, Rejection
from leuk_ray.datasets.layouts.manifest import manifest
from leuk_ray.datasets.words import ClassChoice
from leuk_ray.utils.errors import ConfigError, DataError, StorageError, near

__all__ = [
    "CATALOGUE_SCHEMA",
    "LAYOUTS",
    "SYNTHETIC_MARKER",
    "Catalogue",
    "LayoutOptions",
    "Rejection",
    "parse_c_nmc",
    "read_layout",
]

LAYOUTS: dict[str, Layout] = {
    "c-nmc": c_nmc,
    "all-idb": all_idb,
    "all-idb1": all_idb1,
    "all-idb2": all_idb2,
    "folders": folders,
    "csv": manifest,
}
_NONE = LayoutOptions()


def read_layout(layout: str, root: Path, options: LayoutOptions = _NONE) -> Catalogue:
    """List the images under `root` as `layout` names them.

    Args:
        layout: a name in LAYOUTS.
        root: folder of images; for `csv` the file that lists them.
        options: what names alone do not say.

    Raises:
        UserError: unknown layout, nothing there, or no image in it.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"--layout {layout}: is not known; {near(layout, LAYOUTS)}")
    if options.classes != ClassChoice() and layout not in ("folders", "csv"):
        raise ConfigError(
            "--classes, --positive, --ordered and --binary: are for folders and csv; "
            f"{layout} names its classes itself"
        )
    for option, given in (("--columns", options.columns), ("--keep-columns", options.keep)):
        if given and layout != "csv":
            raise ConfigError(f"{option}: is for csv; {layout} has no table")
    try:
        if layout == "csv" and not root.is_file():
            raise DataError(f"{root}: there is no such file; give the CSV file with the images")
        if layout != "csv" and not root.is_dir():
            raise DataError(f"{root}: there is no such folder; give the folder with the images")
        catalogue = LAYOUTS[layout](root, options)
    except PermissionError as error:
        raise StorageError(f"{error.filename or root}: may not be read by this user") from error
    catalogue.kept(options.keep)  # refuses columns that results cannot be counted by
    images = [item for item in catalogue.rejected if item.reason != "suffix"]
    if not catalogue.rows and not images:
        raise DataError(
            f"{root}: holds no image file ({', '.join(IMAGE_SUFFIXES)}); give the folder with the "
            "images"
        )
    if not catalogue.rows:
        first = images[0]
        raise DataError(
            f"{root}: none of {len(images)} images fits the layout {layout!r} "
            f"(first: {first.path}, {first.detail}); check --layout"
        )
    return catalogue
