"""Tables of fields and of their cells: one row a field while a job runs, two tables at its end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from leuk_ray.fields.detector import Detection
from leuk_ray.fields.field import Field

_CELL = pa.schema(
    [
        ("x0", pa.int64()),
        ("y0", pa.int64()),
        ("x1", pa.int64()),
        ("y1", pa.int64()),
        ("score", pa.float64()),
        ("area", pa.float64()),  # square micrometres
        ("touches_border", pa.bool_()),
        ("clump", pa.bool_()),
    ]
)
_FIELD = pa.schema(
    [
        ("file", pa.string()),  # below the folder that all fields of the job have in common
        ("status", pa.string()),
        ("reasons", pa.string()),  # several are parted by spaces
        ("detail", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("pixels_per_um", pa.float64()),
        ("scale_uncertainty", pa.float64()),
        ("scale_source", pa.string()),
        ("estimated_pixels_per_um", pa.float64()),  # from red cells, where the scale was given
        ("warnings", pa.string()),  # as reasons
    ]
)


def part_schema(more: pa.Schema | None = None) -> pa.Schema:
    """Make the schema of a job: a row a field, its number, its cells with `more` columns."""
    cell = pa.struct([*_CELL, *(more or ())])
    return pa.schema([("number", pa.int64()), *_FIELD, ("cells", pa.list_(cell))])


def field_row(number: int, field: Field, more: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Make one row of `part_schema`; `more` holds further columns of each cell."""
    scale = field.scale
    extra = more or [{} for _ in field.cells]
    cells = [asdict(cell) | one for cell, one in zip(field.cells, extra, strict=True)]
    return {
        "number": number,
        "file": field.name,
        "status": field.status,
        "reasons": " ".join(field.reasons),
        "detail": field.detail,
        "width": field.width,
        "height": field.height,
        "pixels_per_um": scale and scale.pixels_per_um,
        "scale_uncertainty": scale and scale.uncertainty,
        "scale_source": scale and scale.source,
        "estimated_pixels_per_um": scale and scale.estimated,
        "warnings": " ".join(field.warnings),
        "cells": cells,
    }


def fields_table(rows: pa.Table) -> pa.Table:
    """Make a table of one row a field, with how many cells and clumps it holds."""
    cells = [sum(not cell["clump"] for cell in found) for found in rows["cells"].to_pylist()]
    clumps = [sum(cell["clump"] for cell in found) for found in rows["cells"].to_pylist()]
    table = rows.select(_FIELD.names)
    return table.append_column("cells", pa.array(cells, pa.int64())).append_column(
        "clumps", pa.array(clumps, pa.int64())
    )


def words(fields: pa.Table, column: str) -> list[str]:
    """List all reasons, or warnings, of fields."""
    return " ".join(fields[column].to_pylist()).split()


def cells_table(rows: pa.Table, more: pa.Schema | None = None) -> pa.Table:
    """Make a table of one row a cell, with its field as `file`."""
    schema = pa.schema([("file", pa.string()), *_CELL, *(more or ())])
    cells = [{"file": row["file"]} | cell for row in _rows(rows) for cell in row["cells"]]
    return pa.Table.from_pylist(cells, schema=schema)


def detections(rows: pa.Table) -> dict[str, list[Detection]]:
    """Return the cells of each field, for `matching.match`."""
    names = _CELL.names
    return {
        row["file"]: [Detection(**{name: cell[name] for name in names}) for cell in row["cells"]]
        for row in _rows(rows)
    }


def _rows(table: pa.Table) -> Iterable[dict[str, Any]]:
    return table.select(["file", "cells"]).to_pylist()
