"""Image files, wherever they lie: files, folders, patterns."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path
from typing import Any

from pyarrow import fs

from leuk_ray.datasets.images import MAX_BYTES, BadImageError, file_bytes
from leuk_ray.datasets.layouts.listing import (
    IMAGE_SUFFIXES,
    Found,
    Rejection,
    beginning,
    find_files,
)
from leuk_ray.io.locations import Location, filesystem, join, name_of, parent, reason
from leuk_ray.io.storage import file_infos, is_file, read_bytes
from leuk_ray.utils.errors import ConfigError, DataError
from leuk_ray.utils.wording import counted

NamedFile = tuple[str, Location]


@dataclass(frozen=True)
class ImageFile:
    """An image to answer for.

    name: as it was given, or below the folder or pattern that was given.
    path: below the folder that all that was given has in common; no two images share one.
    place: where it lies.
    size, modified: of the file, bytes and nanoseconds; None where they cannot be read.
    """

    name: str
    path: str
    place: Location
    size: int | None
    modified: int | None

    @property
    def named(self) -> NamedFile:
        """What `Classifier.predict` takes."""
        return self.name, self.place


@dataclass(frozen=True)
class FoundImages:
    """Images in the order in which they were given, and how many files were left out, and why."""

    files: list[ImageFile]
    left_out: dict[str, int]


def find_images(
    places: Sequence[Location], suffixes: tuple[str, ...] = IMAGE_SUFFIXES
) -> FoundImages:
    """List every image: files as they are given, folders with all below them, each file once.

    A pattern such as `cells/*_all.bmp` or `s3://bucket/cells/*.png` takes the images whose names
    below its last folder without a star fit it; there a star also stands for slashes. In
    folders, `layouts.listing` says which files count, of those with one of the `suffixes`.

    Raises:
        UserError: no place, one that is neither, or one without an image.
    """
    if not places:
        raise ConfigError("no image was given; give files, folders or patterns")
    listed = [_list(place, suffixes) for place in places]
    common = _common_folder([folder for folder, _, _ in listed])
    found: dict[str, ImageFile] = {}
    left_out: Counter[str] = Counter()
    for place, (folder, infos, others) in zip(places, listed, strict=True):
        if not infos:
            raise DataError(f"{place}: there is no such file, nor a folder with images")
        left_out.update(item.reason for item in others)
        for name, info in infos.items():
            image = join(folder, name)
            text = full(image)
            if text in found:
                left_out["given twice"] += 1
                continue
            path = text.removeprefix(common)
            found[text] = ImageFile(name, path, image, info.size, info.mtime_ns)
    return FoundImages(list(found.values()), dict(left_out.most_common()))


def _list(
    place: Location, suffixes: tuple[str, ...]
) -> tuple[Location, dict[str, fs.FileInfo], list[Rejection]]:
    """Return a place's folder, the images that it means by their names in it, and other files."""
    if is_file(place):
        files, path = filesystem(place)
        return parent(place), {name_of(place): files.get_file_info(path)}, []
    folder, pattern = _split(place)
    if isinstance(folder, Path):  # whose links `find_files` knows
        above = beginning(folder)
        found = find_files(folder, suffixes=suffixes)
        infos = fs.LocalFileSystem().get_file_info(found.images)
    else:
        above, found, objects = "", Found(suffixes), file_infos(folder)
        for name in objects:
            found.add(name, name)
        infos = [objects[name] for name in found.images]
    images = {
        path.removeprefix(above): info for path, info in zip(found.images, infos, strict=True)
    }
    others = [*found.rejected, *found.skipped]
    return (
        folder,
        {name: info for name, info in images.items() if fnmatchcase(name, pattern)},
        [item for item in others if fnmatchcase(item.path.removeprefix(above), pattern)],
    )


def _split(place: Location) -> tuple[Location, str]:
    """Return the folder of a pattern, and what names in it must fit."""
    folder, parts = place, []
    while "*" in str(folder) and parent(folder) != folder:
        parts.insert(0, name_of(folder))
        folder = parent(folder)
    return folder, "/".join(parts) or "*"


def full(place: Location) -> str:
    """Name where something lies from any folder; of an address without its query."""
    if isinstance(place, Path):
        return os.path.normpath(place.absolute())
    return place.partition("?")[0]


def files_digest(files: Sequence[ImageFile]) -> str:
    """Compute the SHA-256 of where images lie, their sizes and their times."""
    listed = [(full(file.place), file.size, file.modified) for file in files]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _common_folder(folders: Sequence[Location]) -> str:
    """Return the folder, `/` at its end, that all lie in; empty where there is none."""
    parts = [full(folder).rstrip("/").split("/") for folder in folders]
    same = list(takewhile(lambda names: len(set(names)) == 1, zip(*parts, strict=False)))
    return "".join(f"{names[0]}/" for names in same)


def image_bytes(place: Location) -> bytes:
    """Read an image file, or as much of it as shows that it is too large.

    Raises:
        BadImageError: it cannot be read.
    """
    if isinstance(place, Path):
        return file_bytes(place)
    try:
        return read_bytes(place, limit=MAX_BYTES + 1)
    except OSError as error:
        raise BadImageError("unreadable", reason(error)) from error


def check_any_scored(answers: Sequence[Mapping[str, Any]]) -> None:
    """Raise a UserError where no image could be scored; an answer that failed has an `error`."""
    if all(answer.get("error") for answer in answers):
        first, images = answers[0], counted(len(answers), "image")
        raise DataError(
            f"{first['name']}: {first['error']}; none of {images} could be scored, and nothing "
            "was written"
        )
