"""`leuk-ray detect`: cells of fields as a table, as crops to prepare, and drawn into the fields."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from leuk_ray.fields.field import FieldSettings
from leuk_ray.fields.matching import Box, Matched, match, read_annotated
from leuk_ray.fields.stain_detector import StainDetector
from leuk_ray.fields.table import cells_table, detections, fields_table, part_schema
from leuk_ray.inference.files import FoundImages, files_digest, find_images
from leuk_ray.io.locations import Location
from leuk_ray.io.parts import Parts
from leuk_ray.io.storage import refuse_existing, remove, write_json
from leuk_ray.io.tables import write_rows
from leuk_ray.utils.errors import DataError
from leuk_ray.utils.progress import bar
from leuk_ray.utils.provenance import now
from leuk_ray.workflows.fields import CROP, work

Format = Literal["csv", "parquet"]
_MANY = 10_000  # fields, from which the tables are Parquet
_PACKAGES = ("leuk_ray", "scikit-image", "scipy", "numpy", "pillow")


def detect(
    places: Sequence[Location],
    out: Path,
    settings: FieldSettings,
    *,
    annotated: Path | None = None,
    annotated_label: str | None = None,
    format: Format | None = None,
    workers: int | None = None,
    resume: bool = False,
    address: str | None = None,
) -> dict[str, Any]:
    """Find the nucleated cells of fields of view.

    Writes detections, fields and crops as tables, crops/, overlays/ and detect.json into `out`.

    Args:
        places: files, folders and patterns.
        out: folder to make; on a cluster, one that all nodes share.
        settings: of fields.
        annotated: table of boxes or centres to measure recall and precision with.
        annotated_label: which of its rows are nucleated cells.
        format: of the tables; by default .csv up to 10,000 fields.
        workers: see `fields.work`.
        resume: go on with a job that was stopped.
        address: Ray cluster to join.

    Returns:
        What detect.json holds: counts (fields = ok + empty + refused), reasons, scale, measured.

    Raises:
        UserError: no image, `out` is there, parts of another job are, or `annotated` is no table.
    """
    out = out.absolute()
    refuse_existing(out, "folder of detections")
    found = find_images(places)
    boxes = (
        None
        if annotated is None
        else _by_path(read_annotated(annotated, annotated_label), found, annotated)
    )
    job = {"images": files_digest(found.files), "settings": settings.model_dump_json()}
    parts = Parts(out, job, part_schema(CROP), resume)
    folder = Path(parts.folder)
    missing = parts.missing(len(found.files))
    arguments = {"settings": settings.model_dump(), "folder": folder}
    done = len(found.files) - len(missing)
    with bar("detect: finding cells", "field") as progress:
        progress(done, len(found.files))
        for part in work(found.files, missing, arguments, workers=workers, address=address):
            parts.add(part)
            done += len(part)
            progress(done, len(found.files))
    rows = parts.table(len(found.files))
    values = _summary(rows, found, settings)
    if boxes is not None:
        values["measured"] = _measured(match(detections(rows), boxes))
    suffix = format or ("csv" if len(rows) <= _MANY else "parquet")
    cells = cells_table(rows, CROP)
    write_rows(folder / f"detections.{suffix}", cells)
    write_rows(folder / f"fields.{suffix}", fields_table(rows))
    write_rows(folder / "crops.csv", _crops(cells))
    write_json(folder / "detect.json", values)
    for part in [*folder.glob("*.parquet"), folder / "job.json"]:
        if part.stem not in ("detections", "fields"):
            remove(part)
    folder.rename(out)
    return values | {"out": str(out)}


def _summary(rows: pa.Table, found: FoundImages, settings: FieldSettings) -> dict[str, Any]:
    fields = fields_table(rows)
    statuses = Counter(fields["status"].to_pylist())
    scales = [scale for scale in fields["pixels_per_um"].to_pylist() if scale]
    return {
        "counts": {
            "fields": len(fields),
            **{status: statuses[status] for status in ("ok", "empty", "refused")},
            "cells": sum(fields["cells"].to_pylist()),
            "clumps": sum(fields["clumps"].to_pylist()),
        },
        "reasons": dict(Counter(" ".join(fields["reasons"].to_pylist()).split()).most_common()),
        "left_out": found.left_out,
        "pixels_per_um": {
            "given": settings.pixels_per_um,
            "median": float(np.median(scales)) if scales else None,
            "lowest": min(scales, default=None),
            "highest": max(scales, default=None),
        },
        "settings": settings.model_dump(),
        "detector": asdict(StainDetector()),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "finished": now(),
    }


def _crops(cells: pa.Table) -> pa.Table:
    """What `prepare --layout csv` takes, for labels and subjects to be filled in."""
    cropped = cells.filter(cells["crop"].is_valid())
    empty = pa.nulls(len(cropped), pa.string())
    return pa.table(
        {
            "path": cropped["crop"],
            "label": empty,
            "subject": empty,
            "source_image": cropped["file"],
        }
    )


def _by_path(boxes: dict[str, list[Box]], found: FoundImages, table: Path) -> dict[str, list[Box]]:
    """Boxes by the paths of the fields that were given, by their names where these are unique."""
    names = Counter(Path(file.path).name for file in found.files)
    matched = {}
    for file in found.files:
        name = Path(file.path).name
        if file.path in boxes:
            matched[file.path] = boxes[file.path]
        elif name in boxes and names[name] == 1:
            matched[file.path] = boxes[name]
    if not matched:
        first = found.files[0].path
        raise DataError(f"{table}: names none of the fields, such as {first}, in its column file")
    return matched


def _measured(counts: Matched) -> dict[str, Any]:
    return asdict(counts) | {"recall": counts.recall, "precision": counts.precision}
