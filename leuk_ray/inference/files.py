"""Answers for image files, wherever they lie: files, folders, patterns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fnmatch import fnmatchcase

from leuk_ray.datasets.layouts.listing import IMAGE_SUFFIXES
from leuk_ray.errors import UserError
from leuk_ray.images import MAX_BYTES
from leuk_ray.inference.classifier import Cell, Classifier, Failure, Prediction
from leuk_ray.locations import Location, join, name_of, parent
from leuk_ray.storage import is_file, list_files, read_bytes

_FILES_AT_ONCE = 32
_READERS = 8  # more than cores: an object store answers late, not slowly

NamedFile = tuple[str, Location]


def find_images(places: Sequence[Location]) -> list[NamedFile]:
    """Name and location of every image: files as they are given, folders with all below them.

    A pattern such as `cells/*_all.bmp` or `s3://bucket/cells/*.png` takes the images whose names
    below its last folder without a star fit it; there a star also stands for slashes.

    Raises:
        UserError: a place that is neither, or one without an image.
    """
    found: list[NamedFile] = []
    for place in places:
        if is_file(place):
            found.append((name_of(place), place))
            continue
        folder, pattern = _split(place)
        names = [
            name
            for name in list_files(folder)
            if name.lower().endswith(IMAGE_SUFFIXES) and fnmatchcase(name, pattern)
        ]
        if not names:
            raise UserError(f"{place}: there is no such file, nor a folder with images")
        found += [(name, join(folder, name)) for name in names]
    return found


def _split(place: Location) -> tuple[Location, str]:
    """The folder of a pattern, and what names in it must fit."""
    folder, parts = place, []
    while "*" in str(folder) and parent(folder) != folder:
        parts.insert(0, name_of(folder))
        folder = parent(folder)
    return folder, "/".join(parts) or "*"


def answer_files(
    classifier: Classifier,
    files: Sequence[NamedFile],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Prediction | Failure]:
    """One answer a file, in order; one that cannot be read is an item, not an error.

    Files are read and decoded while the ones before them are scored. Memory: the bytes and
    pixels of 64 files.
    """
    answers: list[Prediction | Failure] = []
    chunks = [files[i : i + _FILES_AT_ONCE] for i in range(0, len(files), _FILES_AT_ONCE)]
    with ThreadPoolExecutor(_READERS) as pool:

        def start(chunk: Sequence[NamedFile]) -> list[Future[Cell | Failure]]:
            return [pool.submit(_read, classifier, *file) for file in chunk]

        reading = start(chunks[0]) if chunks else []
        for following in [*chunks[1:], []]:
            read, reading = reading, start(following)
            answers += classifier.answer_all([future.result() for future in read])
            progress(len(answers), len(files))
    return answers


def _read(classifier: Classifier, name: str, place: Location) -> Cell | Failure:
    try:
        data = read_bytes(place, limit=MAX_BYTES + 1)
    except OSError as error:
        return Failure(name, f"unreadable: {error.strerror or error}")
    return classifier.try_read(name, data)
