"""A table of images: a CSV file with the columns path, label, subject, site, stain, source_image.

Only path is needed. Cells of one source_image, the field they were cut from, are one group. Paths
are absolute or relative to the table's folder. Labels are words, each a class of its own; see
`words` for those that mean ALL and healthy, and for those that say nothing. Columns are parted by
commas, semicolons or tabs, whichever the first line has most of.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from leuk_ray.datasets.layouts.catalogue import KEPT, Catalogue, LayoutOptions, Row
from leuk_ray.datasets.layouts.listing import Rejection
from leuk_ray.utils.errors import ConfigError, DataError, unreadable

COLUMNS = ("path", "label", "subject", "site", "stain", "source_image")
_DELIMITERS = ",;\t"


def manifest(table: Path, options: LayoutOptions) -> Catalogue:
    """List the images of a CSV file.

    Raises:
        UserError: it cannot be read, a column is missing or there twice, a row has more values
            than there are columns, or two rows contradict each other.
    """
    header, *lines = _read(table) or [(1, [])]
    places = _places(table, header[1], options.columns)
    places |= {KEPT + name: _place_of(table, header[1], name) for name in options.keep}
    items = []
    for line, row in lines:
        # Spreadsheets leave out empty values at the end; a row that ends before its label is cut.
        cut = len(row) <= places.get("label", -1)
        if cut or any(value.strip() for value in row[len(header[1]) :]):
            raise DataError(
                f"{table}, line {line}: has {len(row)} values for {len(header[1])} columns; put "
                "values that hold the delimiter in double quotes, and leave no label out"
            )
        values = {ours: row[at] if at < len(row) else "" for ours, at in places.items()}
        items.append(_row(table, line, values))
    return Catalogue.labelled(items, options.classes, table)


def _read(table: Path) -> list[tuple[int, list[str]]]:
    """Each row that is not blank, with the number of the line that it ends on."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            first = stream.readline()
            stream.seek(0)
            delimiter = max(_DELIMITERS, key=first.count)
            reader = csv.reader(stream, delimiter=delimiter, strict=True)  # no quote left open
            return [(reader.line_num, row) for row in reader if row]
    except UnicodeDecodeError as error:
        raise DataError(f"{table}: is not UTF-8; save it as CSV UTF-8") from error
    except (OSError, csv.Error) as error:
        raise unreadable(
            error, f"{table}: cannot be read as CSV ({error}); save it again"
        ) from error


def _places(table: Path, header: Sequence[str], wanted: Mapping[str, str]) -> dict[str, int]:
    """Our name -> which column of the table it is, for those that are there."""
    have = [name.strip() for name in header]
    if unknown := sorted(set(wanted) - set(COLUMNS)):
        raise ConfigError(f"--columns {unknown[0]}: choose from {', '.join(COLUMNS)}")
    places = {}
    for ours in COLUMNS:
        its = wanted.get(ours, ours)
        found = [at for at, name in enumerate(have) if name.lower() == its.lower()]
        exact = [at for at in found if have[at] == its]
        found = exact if exact and ours in wanted else found
        if len(found) > 1:
            named = ", ".join(f"{have[at]!r} (column {at + 1})" for at in found)
            raise DataError(f"{table}: has several columns for {ours}: {named}; rename all but one")
        if found:
            places[ours] = found[0]
        elif ours in wanted:
            raise ConfigError(
                f"--columns {ours}={its}: {table} has no such column; it has {', '.join(have)}"
            )
    if "path" not in places:
        raise DataError(
            f"{table}: has no column path (it has {', '.join(have) or 'none'}); "
            "name it with --columns path=NAME"
        )
    return places


def _place_of(table: Path, header: Sequence[str], wanted: str) -> int:
    """Where the one column is that is to be kept."""
    found = [at for at, name in enumerate(header) if name.strip().lower() == wanted.lower()]
    if len(found) != 1:
        raise ConfigError(
            f"--keep-columns {wanted}: {table} has {len(found) or 'no'} such "
            f"column{'s' * (len(found) > 1)}; it has {', '.join(header)}"
        )
    return found[0]


def _row(table: Path, line: int, row: Mapping[str, str]) -> Row | Rejection:
    values = {name: text.strip() or None for name, text in row.items()}
    if values["path"] is None:
        return Rejection(f"{table}, line {line}", "path", "the path is empty")
    path = (table.parent / values["path"]).as_posix()
    return {
        "uid": Path(values["path"]).with_suffix("").as_posix(),
        "path": path,
        "word": values.get("label") or "",
        "subject": values.get("subject"),
        "source": table.stem,
        "site": values.get("site"),
        "stain": values.get("stain"),
        "source_image": values.get("source_image"),
        "listed": f"{table}, line {line}",
        **{name: value for name, value in values.items() if name.startswith(KEPT)},
    }
