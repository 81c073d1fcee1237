"""Which files of a folder count: every file is an image to read, rejected, or skipped by rule.

Skipped, by the names of files and folders alone: what is hidden (`.` in front, as .Trash-1000,
.ipynb_checkpoints, ._cell.bmp) and what systems leave beside pictures (SYSTEM_FOLDERS,
SYSTEM_FILES).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

IMAGE_SUFFIXES = (".bmp", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
SYSTEM_FOLDERS = frozenset(
    ("@eadir", "__macosx", "#recycle", "@recycle", "$recycle.bin", "#snapshot", "lost+found",
     "system volume information")
)  # fmt: skip
SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini"))


@dataclass(frozen=True)
class Rejection:
    """A file that is not in the catalogue or not in the dataset, and why."""

    path: str
    reason: str
    detail: str


@dataclass
class Found:
    """Every file under a folder once: paths of images, sorted, and all others with the reason.

    suffixes: of the names of images.
    """

    suffixes: tuple[str, ...] = IMAGE_SUFFIXES
    images: list[str] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    skipped: list[Rejection] = field(default_factory=list)

    def add(self, path: str, place: str, used: Iterable[str] = ()) -> bool:
        """Sort in one file, and say whether it is an image.

        Args:
            path: where it lies.
            place: the same below the folder that was given, where names are looked at.
            used: patterns of names of files that belong to the layout and are no images.
        """
        name = place.rpartition("/")[2]
        if why := _skip_reason(place):
            self.skipped.append(Rejection(printable(path), *why))
        elif any(fnmatchcase(name, pattern) for pattern in used):
            self.skipped.append(
                Rejection(printable(path), "layout", "belongs to the layout and is no image")
            )
        elif printable(path) != path:
            detail = "the name is not UTF-8; rename the file or its folder"
            self.rejected.append(Rejection(printable(path), "name", detail))
        elif not name.lower().endswith(self.suffixes):
            detail = f"ends in none of {', '.join(self.suffixes)}"
            self.rejected.append(Rejection(path, "suffix", detail))
        else:
            self.images.append(path)
            return True
        return False


def find_files(
    root: Path, used: Iterable[str] = (), suffixes: tuple[str, ...] = IMAGE_SUFFIXES
) -> Found:
    """List every file under a folder, and folders that cannot be listed as rejected.

    Linked folders are followed after all others, each real folder once: a loop of links ends,
    and a link to what is listed already is skipped. A linked file is skipped where the image
    that it leads to is listed itself.
    """
    found, used = Found(suffixes), tuple(used)
    above = beginning(root)
    links: list[str] = []
    own: set[str] = set()
    for folder, entries in _real_folders(root, found):
        real = os.path.realpath(folder)
        for entry in entries:
            if entry.is_symlink():
                links.append(folder + entry.name)
                continue
            path = folder + entry.name
            if found.add(path, path.removeprefix(above), used):
                own.add(f"{real}/{entry.name}")
    for path in links:
        target = os.path.realpath(path)
        if target in own:
            detail = f"is a link to {target}, which is listed"
            found.skipped.append(Rejection(printable(path), "link", detail))
        else:
            found.add(path, path.removeprefix(above), used)
    found.images.sort()
    return found


def printable(path: str) -> str:
    """Make a path text that can be shown and stored: bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def beginning(folder: Path) -> str:
    """Say what the paths of the files in `folder` begin with, `/` included."""
    return (folder / "x").as_posix()[:-1]


def _real_folders(root: Path, found: Found) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Each real folder once, `/` at its end, and the files in it; linked folders last.

    No link in a skipped folder is followed, and what one leads to in there is listed.
    """
    above, seen = beginning(root), set[str]()
    folders, linked = [above], list[str]()
    while folders or linked:
        folder = folders.pop() if folders else linked.pop(0)
        skipped = _skip_reason(folder.removeprefix(above)) is not None
        if not skipped:
            real = os.path.realpath(folder)
            if real in seen:
                detail = f"leads to {printable(real)}, which is listed"
                found.skipped.append(Rejection(printable(folder[:-1]), "link", detail))
                continue
            seen.add(real)
        try:
            with os.scandir(folder or ".") as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            detail = f"folder: {error.strerror or error}"
            found.rejected.append(Rejection(printable(folder), "unreadable", detail))
            continue
        files = []
        for entry in entries:
            inner = f"{folder}{entry.name}/"
            if not _is_folder(entry):
                files.append(entry)
            elif not entry.is_symlink():
                folders.append(inner)
            elif why := _skip_reason(inner.removeprefix(above)):
                found.skipped.append(Rejection(printable(inner[:-1]), *why))
            else:
                linked.append(inner)
        yield folder, files


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _skip_reason(place: str) -> tuple[str, str] | None:
    """Why a file at this place is skipped, as a short code and in words; None where it is not."""
    *folders, name = place.split("/")
    for folder in folders:
        if folder.startswith("."):
            return "hidden", f"lies in the hidden folder {printable(folder)}"
        if folder.lower() in SYSTEM_FOLDERS:
            return "system", f"lies in {folder}, which a system makes"
    if name.startswith("."):
        return "hidden", "is a hidden file"
    if name.lower() in SYSTEM_FILES:
        return "system", "is a file that a system makes"
    return None
