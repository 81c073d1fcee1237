"""A table of images: a CSV file with the columns path, label, subject, site and stain.

Only path is needed. Paths are absolute or relative to the table's folder. Labels are words: see
`words` for the ones that are known without `--positive`, and for those that say nothing.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from leuk_ray.datasets.layouts.catalogue import Catalogue, LayoutOptions, Row
from leuk_ray.datasets.layouts.listing import Rejection
from leuk_ray.errors import UserError

COLUMNS = ("path", "label", "subject", "site", "stain")


def manifest(table: Path, options: LayoutOptions) -> Catalogue:
    """List the images of a CSV file.

    Raises:
        UserError: it cannot be read, or a column is missing.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = _columns(table, list(reader.fieldnames or ()), options.columns)
            rows = [{ours: row[its] for ours, its in columns.items()} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table}: cannot be read as CSV ({error}); save it as UTF-8") from error
    catalogue = Catalogue.of(_row(table, line, row) for line, row in enumerate(rows, start=2))
    catalogue.read_labels(options.positive, table)
    return catalogue


def _columns(table: Path, have: list[str], wanted: Mapping[str, str]) -> dict[str, str]:
    """Our name -> the table's column, for those that are there."""
    if unknown := sorted(set(wanted) - set(COLUMNS)):
        raise UserError(f"--columns {unknown[0]}: choose from {', '.join(COLUMNS)}")
    for ours, its in wanted.items():
        if its not in have:
            raise UserError(
                f"--columns {ours}={its}: {table} has no such column; it has {', '.join(have)}"
            )
    columns = {ours: wanted.get(ours, ours) for ours in COLUMNS if wanted.get(ours, ours) in have}
    if "path" not in columns:
        raise UserError(
            f"{table}: has no column path (it has {', '.join(have) or 'none'}); "
            "name it with --columns path=NAME"
        )
    return columns


def _row(table: Path, line: int, row: Mapping[str, str | None]) -> Row | Rejection:
    values = {name: (text or "").strip() or None for name, text in row.items()}
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
    }
