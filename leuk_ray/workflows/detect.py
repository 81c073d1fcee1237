"""`leuk-ray detect`: cells of fields as a table, as crops to prepare, and drawn into the fields."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from leuk_ray.datasets.classes import ClassSet
from leuk_ray.evaluation.error_rates import MIN_PATIENTS, DetectorRecall, FoundCells
from leuk_ray.fields.annotated import Annotated, join_fields, parted_by_frame, read_annotated
from leuk_ray.fields.field import FieldSettings
from leuk_ray.fields.matching import match
from leuk_ray.fields.stain_detector import StainDetector
from leuk_ray.fields.table import cells_table, detections, fields_table, part_schema, words
from leuk_ray.fields.whole_slide import SUFFIXES
from leuk_ray.inference.files import FoundImages, files_digest, find_images, full
from leuk_ray.inference.naming import name_subjects
from leuk_ray.io.locations import Location
from leuk_ray.io.parts import Parts
from leuk_ray.io.storage import refuse_existing, remove, write_json
from leuk_ray.io.tables import write_rows
from leuk_ray.utils.errors import ConfigError, DataError
from leuk_ray.utils.progress import bar
from leuk_ray.utils.provenance import now
from leuk_ray.utils.settings import first_problem
from leuk_ray.workflows.fields import CROP, check_any_examined, details_of, work

Format = Literal["csv", "parquet"]
_MANY = 10_000  # fields, from which the tables are Parquet
_PACKAGES = ("leuk_ray", "scikit-image", "scipy", "numpy", "pillow")


def detect(
    places: Sequence[Location],
    out: Path,
    settings: FieldSettings,
    *,
    annotated: Path | None = None,
    annotated_labels: Sequence[str] = (),
    subject: str | None = None,
    format: Format | None = None,
    workers: int | None = None,
    resume: bool = False,
    address: str | None = None,
) -> dict[str, Any]:
    """Find the nucleated cells of fields of view and slides.

    Writes detections, fields and crops as tables, crops/, overlays/ and detect.json into `out`.

    Args:
        places: files, folders and patterns.
        out: folder to make; on a cluster, one that all nodes share.
        settings: of fields.
        annotated: table of boxes or centres to measure recall and precision with.
        annotated_labels: of its rows that are nucleated cells.
        subject: how a field's path names its patient, by whom recall is counted for each label;
            see `naming.name_subjects`. None counts by field.
        format: of the tables; by default .csv up to 10,000 fields.
        workers: see `fields.work`.
        resume: go on with a job that was stopped.
        address: Ray cluster to join.

    Returns:
        What detect.json holds: counts (fields = ok + empty + refused), reasons, warnings, details
        (see `details_of`), scale, measured.

    Raises:
        UserError: no image, `out` is there, parts of another job are, `annotated` is no table of
            these fields, or all fields are refused; then the parts are removed.
    """
    if annotated is None and (annotated_labels or subject):
        raise ConfigError("--annotated-label, --subject: are for annotated cells; add --boxes CSV")
    out = out.absolute()
    refuse_existing(out, "folder of detections")
    found = find_images(places, SUFFIXES)
    paths = [file.path for file in found.files]
    boxes: Annotated | None = None
    others: Annotated = {}
    if annotated is not None:
        places_of = {full(file.place): file.path for file in found.files}
        cells_of = read_annotated(annotated, annotated_labels)
        boxes, others = join_fields(cells_of, places_of, annotated)
    patients = dict(
        zip(paths, paths if subject is None else name_subjects(paths, subject)[0], strict=True)
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
    try:
        check_any_examined(rows["status"].to_pylist(), words(rows, "reasons"), details_of(rows))
    except DataError:
        parts.remove()
        raise
    values = _summary(rows, found, settings)
    if boxes is not None:
        by = "fields" if subject is None else "patients"
        values["measured"] = _measured(rows, boxes, others, patients) | {"counted_by": by}
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
    pairs = zip(
        fields["pixels_per_um"].to_pylist(), fields["scale_source"].to_pylist(), strict=True
    )
    scales = [scale for scale, source in pairs if scale and source != "file"]
    return {
        "counts": {
            "fields": len(fields),
            **{status: statuses[status] for status in ("ok", "empty", "refused")},
            "cells": sum(fields["cells"].to_pylist()),
            "clumps": sum(fields["clumps"].to_pylist()),
        },
        "reasons": dict(Counter(words(fields, "reasons")).most_common()),
        "warnings": dict(Counter(words(fields, "warnings")).most_common()),
        "details": details_of(fields),
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
    """Say what `prepare --layout csv` takes, for labels and subjects to be filled in."""
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


def _measured(
    rows: pa.Table, boxes: Annotated, others: Annotated, patients: dict[str, str | None]
) -> dict[str, Any]:
    """Recall and precision over annotated fields, and which annotations are in neither.

    These are of other files, or have their centre outside their field. `found_by_label` has cells
    and found ones by label for each patient, without a name, in fields that were not refused: no
    cell of a refused field is one that the detector missed.
    """
    sizes = zip(rows["width"].to_pylist(), rows["height"].to_pylist(), strict=True)
    boxes, outside = parted_by_frame(boxes, dict(zip(rows["file"].to_pylist(), sizes, strict=True)))
    counts = match(detections(rows), boxes)
    statuses = dict(zip(rows["file"].to_pylist(), rows["status"].to_pylist(), strict=True))
    found: dict[str, dict[str, FoundCells]] = {}
    for file, labels in counts.by_field.items():
        patient = patients[file]
        if statuses[file] == "refused" or patient is None:
            continue
        own = found.setdefault(patient, {})
        for label, cells in labels.items():
            own[label] = own.get(label, FoundCells()) + cells
    values = asdict(counts)
    values.pop("by_field")
    return values | {
        "recall": counts.recall,
        "precision": counts.precision,
        "fields": len(boxes),
        "fields_without_rows": len(rows) - len(boxes),
        "outside": {file: len(cells) for file, cells in outside.items()},
        "other_files": list(others),
        "rows_of_other_files": sum(map(len, others.values())),
        "found_by_label": [
            {label: one.model_dump() for label, one in own.items()} for own in found.values() if own
        ],
    }


def read_recall(path: Path, classes: ClassSet) -> DetectorRecall:
    """Read what `detect --boxes` measured, for the classes of a bundle.

    Args:
        path: a detect.json, or the folder that holds it.
        classes: which the labels of the annotated cells must be.

    Raises:
        UserError: it holds no such measurement, other labels, or too few patients or fields.
    """
    path = path / "detect.json" if path.is_dir() else path
    try:
        measured = json.loads(path.read_text())["measured"]
        groups = [
            {label: FoundCells(**one) for label, one in own.items()}
            for own in measured["found_by_label"]
        ]
        by = measured["counted_by"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"--misses {path}: is no detect.json of `leuk-ray detect --boxes`, which measures them"
        ) from error
    labels = sorted({label for own in groups for label in own})
    if unknown := [label for label in labels if label not in classes.names]:
        raise DataError(
            f"--misses {path}: its annotated cells are labelled {', '.join(unknown) or 'nothing'}; "
            f"the classes are {', '.join(classes.names)}: annotate with these"
        )
    parts = {}
    for positive in (True, False):
        own = [
            sum(
                (one for label, one in group.items() if (label in classes.positive) == positive),
                FoundCells(),
            )
            for group in groups
        ]
        parts[positive] = tuple(one for one in own if one.cells)
    if min(map(len, parts.values())) < MIN_PATIENTS:
        raise DataError(
            f"--misses {path}: has blasts of {len(parts[True])} {by} and other cells of "
            f"{len(parts[False])}; {MIN_PATIENTS} of either are needed"
        )
    try:
        return DetectorRecall(positive=parts[True], other=parts[False], counted_by=by)
    except ValidationError as error:
        raise DataError(f"--misses {path}: cannot be used ({first_problem(error)})") from error
