"""Cells that people annotated in fields of view, read from a CSV table."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from leuk_ray.utils.errors import ConfigError, DataError, unreadable
from leuk_ray.utils.wording import counted, listed

Box = tuple[float, float, float, float]
_BOX_COLUMNS = (("x0", "y0", "x1", "y1"), ("xmin", "ymin", "xmax", "ymax"))


@dataclass(frozen=True)
class AnnotatedCell:
    """A nucleated cell. box: pixels of its field; a centre is a box without extent."""

    box: Box
    label: str = ""


Annotated = Mapping[str, Sequence[AnnotatedCell]]


def read_annotated(table: Path, labels: Sequence[str] = ()) -> dict[str, list[AnnotatedCell]]:
    """Read boxes (file,x0,y0,x1,y1 or file,xmin,ymin,xmax,ymax) or centres (file,x,y) from a CSV.

    Args:
        table: one row a cell, in pixels of its field; a row with a file alone is a field that was
            annotated and has no cell.
        labels: keep the rows whose column `label` holds one of them.

    Returns:
        Cells by file, also of a file none of whose rows is kept.

    Raises:
        UserError: the table cannot be read, lacks a column, or has several labels and none is
            chosen.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise unreadable(
            error, f"{table}: cannot be read as CSV ({error}); save it again"
        ) from error
    columns = _columns(table, set(rows[0]) if rows else {"file", "x", "y"})
    known = sorted({row.get("label") or "" for row in rows if any(row[name] for name in columns)})
    if not labels and len(known) > 1:
        raise ConfigError(
            f"{table}: has the labels {', '.join(known)}; choose those of nucleated cells with "
            "--annotated-label, once for each"
        )
    for label in labels:
        if label not in known:
            raise ConfigError(
                f"--annotated-label {label}: {table} has the labels {', '.join(known)}"
            )
    annotated: dict[str, list[AnnotatedCell]] = {}
    for line, row in enumerate(rows, start=2):
        cells = annotated.setdefault(_unquoted(row["file"] or ""), [])
        label = row.get("label") or ""
        if (labels and label not in labels) or not any(row[name] for name in columns):
            continue
        try:
            numbers = [float(row[name]) for name in columns]
        except (TypeError, ValueError) as error:
            raise _no_box(table, line, columns) from error
        in_order = all(low <= high for low, high in zip(numbers, numbers[2:], strict=False))
        if not (in_order and all(map(math.isfinite, numbers))):
            raise _no_box(table, line, columns)
        x0, y0, x1, y1 = (*numbers, *numbers)[:4]
        cell = AnnotatedCell((x0, y0, x1, y1), label)
        if cell in cells:
            raise DataError(f"{table}, line {line}: repeats a row; each cell stands in one")
        cells.append(cell)
    return annotated


def _unquoted(name: str) -> str:
    """Without the quote that our tables put before what a spreadsheet takes for a formula."""
    return name[1:] if name[:1] == "'" and name[1:2] in ("=", "+", "-", "@") else name


def _no_box(table: Path, line: int, columns: Sequence[str]) -> DataError:
    what = "all numbers" if len(columns) == 2 else "the numbers of a box, low before high"
    return DataError(f"{table}, line {line}: {', '.join(columns)} are not {what}; correct the row")


def _columns(table: Path, have: set[str]) -> tuple[str, ...]:
    if "file" in have:
        for names in (*_BOX_COLUMNS, ("x", "y")):
            if have.issuperset(names):
                return names
    raise DataError(
        f"{table}: needs the columns file,x0,y0,x1,y1 of boxes or file,x,y of centres; it has "
        f"{', '.join(sorted(have))}"
    )


def join_fields(
    annotated: Annotated, fields: Mapping[str, str], table: Path
) -> tuple[dict[str, list[AnnotatedCell]], Annotated]:
    """Join annotated cells to fields, by their paths or by names that only one field has.

    Args:
        annotated: by file, as the table names it.
        fields: the path of each in the results by where it lies, from the root or as an address.
        table: where they are from, for errors.

    Returns:
        Cells by path of those fields that the table names, and those of files that are none.

    Raises:
        UserError: a name may be of several fields, no field is named, or one is named in two ways
            and has a cell under both.
    """
    paths = list(fields.values())
    names = Counter(PurePosixPath(path).name for path in paths)
    by_name = {PurePosixPath(path).name: path for path in paths}
    joined: dict[str, list[AnnotatedCell]] = {}
    others: dict[str, Sequence[AnnotatedCell]] = {}
    for file, cells in annotated.items():
        if file in paths or file in fields:
            path = fields.get(file, file)
        elif names[file] > 1:
            same = [path for path in paths if PurePosixPath(path).name == file]
            raise DataError(
                f"{table}: {file} may be any of {counted(len(same), 'field')} ({listed(same)}); "
                "write their paths in the column file"
            )
        elif file in by_name:
            path = by_name[file]
        else:
            others[file] = cells
            continue
        own = joined.setdefault(path, [])
        if any(cell in own for cell in cells):
            raise DataError(
                f"{table}: has cells of {path} twice, the second time as {file}; each cell stands "
                "in one row"
            )
        own.extend(cells)
    if not joined:
        raise DataError(
            f"{table}: names none of the fields, such as {paths[0]}, in its column file"
        )
    return joined, others


def parted_by_frame(
    annotated: Annotated, sizes: Mapping[str, tuple[int, int]]
) -> tuple[dict[str, list[AnnotatedCell]], dict[str, list[AnnotatedCell]]]:
    """Part cells whose centre lies in their field from those whose centre lies outside.

    Args:
        annotated: cells by field.
        sizes: width and height of each field, pixels; 0 where the file could not be read, and
            then nothing is outside.

    Returns:
        Those inside, of all fields, and those outside, of fields that have such.
    """
    inside: dict[str, list[AnnotatedCell]] = {}
    outside: dict[str, list[AnnotatedCell]] = {}
    for file, cells in annotated.items():
        width, height = sizes[file]
        kept = inside.setdefault(file, [])
        for cell in cells:
            x, y = (cell.box[0] + cell.box[2]) / 2, (cell.box[1] + cell.box[3]) / 2
            if not width or (0 <= x <= width and 0 <= y <= height):
                kept.append(cell)
            else:
                outside.setdefault(file, []).append(cell)
    return inside, outside
