"""Answers for image files, wherever they lie: one file, or all in a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.csv as pacsv

from leuk_ray.datasets.layouts.catalogue import IMAGE_SUFFIXES
from leuk_ray.errors import UserError
from leuk_ray.images import MAX_BYTES
from leuk_ray.inference.classifier import Classifier, Failure, Prediction
from leuk_ray.locations import Location, join, name_of
from leuk_ray.storage import is_file, list_files, read_bytes, write_bytes, write_table

ANSWERS_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("label", pa.string()),
        ("probability", pa.float64()),
        ("threshold", pa.float64()),
        ("reasons", pa.string()),
        ("sha256", pa.string()),
        ("error", pa.string()),
    ]
)
_FILES_AT_ONCE = 32


def find_images(places: Sequence[Location]) -> list[tuple[str, Location]]:
    """Name and location of every image: files as they are given, folders with all below them.

    Raises:
        UserError: a place that is neither, or a folder without an image.
    """
    found: list[tuple[str, Location]] = []
    for place in places:
        if is_file(place):
            found.append((name_of(place), place))
            continue
        names = [name for name in list_files(place) if name.lower().endswith(IMAGE_SUFFIXES)]
        if not names:
            raise UserError(f"{place}: there is no such file, nor a folder with images")
        found += [(name, join(place, name)) for name in names]
    return found


def answer_files(
    classifier: Classifier,
    files: Sequence[tuple[str, Location]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Prediction | Failure]:
    """One answer a file, in order; one that cannot be read is an item, not an error.

    Memory: the bytes and pixels of 32 files.
    """
    answers: list[Prediction | Failure] = []
    for start in range(0, len(files), _FILES_AT_ONCE):
        read: list[tuple[str, bytes]] = []
        failed: dict[int, Failure] = {}
        for number, (name, place) in enumerate(files[start : start + _FILES_AT_ONCE]):
            try:
                read.append((name, read_bytes(place, limit=MAX_BYTES + 1)))
            except OSError as error:
                failed[number] = Failure(name, f"unreadable: {error.strerror or error}")
        scored = iter(classifier.predict(read))
        count = len(read) + len(failed)
        answers += [failed.get(number) or next(scored) for number in range(count)]
        progress(len(answers), len(files))
    return answers


def write_answers(out: Location, answers: Sequence[Prediction | Failure]) -> None:
    """Write ANSWERS_SCHEMA, one row an answer, as CSV or Parquet by the ending of the name.

    Several reasons stand in one text, parted by spaces.
    """
    rows = [
        item.as_dict()
        | {"reasons": " ".join(item.reasons) if isinstance(item, Prediction) else None}
        for item in answers
    ]
    table = pa.Table.from_pylist(rows, schema=ANSWERS_SCHEMA)
    if name_of(out).endswith(".csv"):
        stream = pa.BufferOutputStream()
        pacsv.write_csv(table, stream)
        write_bytes(out, stream.getvalue())
    else:
        write_table(out, table)
