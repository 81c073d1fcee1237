"""`leuk-ray predict --fields`: answers for every cell of fields of view."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from leuk_ray.bundles.manifest import MANIFEST, read_manifest
from leuk_ray.datasets.images import BadImageError
from leuk_ray.fields.answers import field_answer, summarise_cells
from leuk_ray.fields.crops import crops_of
from leuk_ray.fields.field import Field, FieldSettings, read_field
from leuk_ray.fields.table import cells_table, fields_table, part_schema, words
from leuk_ray.fields.whole_slide import SUFFIXES, open_slide
from leuk_ray.inference.answers import subjects_table, write_subjects
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.files import files_digest, find_images, image_bytes
from leuk_ray.inference.naming import name_subjects
from leuk_ray.io.locations import Location, join, name_of, parent
from leuk_ray.io.parts import Parts
from leuk_ray.io.storage import read_bytes, refuse_existing
from leuk_ray.io.tables import write_rows
from leuk_ray.utils.errors import ConfigError, DataError, UserError
from leuk_ray.utils.progress import bar
from leuk_ray.workflows.fields import (
    HERE,
    answer_columns,
    check_any_examined,
    crop_files,
    details_of,
    work,
)


def answer_field(
    classifier: Classifier, name: str, data: bytes, settings: FieldSettings
) -> dict[str, Any]:
    """Answer for the cells of one field file; see `fields.answers.field_answer`."""
    field, pixels = read_field(name, data, settings)
    crops = [] if pixels is None else crops_of(field, pixels, settings.crop_um)
    answers = iter(classifier.predict_field(crop_files(name, crops)))
    given = [None if crop is None else next(answers).as_dict() for crop in crops]
    return field_answer(field, given, classifier.manifest.classes)


def predict_fields(
    bundle: Location, places: Sequence[Location], settings: FieldSettings
) -> dict[str, Any]:
    """Answers in memory for a few fields.

    Returns:
        fields (`field_answer` of each), the `summary` of all their cells, and left_out.

    Raises:
        UserError: no image, more than a few, or all refused.
    """
    found = find_images(places, SUFFIXES)
    if len(found.files) > HERE:
        raise UserError(f"{len(found.files)} fields: more than {HERE} need --out answers.csv")
    classifier = Classifier.load(bundle)
    classes = classifier.manifest.classes
    fields = []
    with bar("predict: fields", "field") as progress:
        for file in found.files:
            try:
                if open_slide(file.place) is not None:
                    raise ConfigError(f"{file.name}: is a slide; add --out cells.csv")
                data = image_bytes(file.place)
                fields.append(answer_field(classifier, file.path, data, settings))
            except BadImageError as error:
                lost = Field(file.path, "refused", ("unreadable",), detail=str(error))
                fields.append(field_answer(lost, (), classes))
            progress(len(fields), len(found.files))
    refused = [reason for field in fields for reason in field["reasons"]]
    details = {field["name"]: field["detail"] for field in fields if field["detail"]}
    check_any_examined([field["status"] for field in fields], refused, details)
    cells = [cell for field in fields for cell in field["cells"]]
    return {
        "fields": fields,
        "summary": summarise_cells(cells, classes),
        "left_out": found.left_out,
    }


def predict_fields_to_table(
    bundle: Location,
    places: Sequence[Location],
    out: Location,
    settings: FieldSettings,
    *,
    subject: str | None = None,
    workers: int | None = None,
    gpus: bool = False,
    resume: bool = False,
    address: str | None = None,
) -> dict[str, Any]:
    """Write a table of cells with their answers, one of fields, and one of subjects if asked for.

    Args:
        bundle: that answers.
        places: files, folders and patterns.
        out: table of cells, .csv or .parquet; OUT-fields lies beside it.
        settings: of fields.
        subject: how a field's path names its subject: see `naming.name_subjects`.
        workers: see `fields.work`.
        gpus: one for each worker.
        resume: go on with a job that was stopped.
        address: Ray cluster to join.

    Returns:
        out, fields_out, fields (count by status), reasons, warnings, details (see `details_of`),
        the `summary` of all cells and left_out; with `subject` also subjects_out, subjects (how
        many), patients (see `write_subjects`), subject_spellings and without_subject (fields).

    Raises:
        UserError: no image, no subject, a table or parts of another job are there, or all fields
            are refused; then the parts are removed.
    """
    if not name_of(out).endswith((".csv", ".parquet")):
        raise ConfigError(f"--out {out}: name a .csv or .parquet file")
    fields_out = _beside(out, "fields")
    refuse_existing(out, "table of answers")
    if not resume:  # `out` is written last: a job that was stopped may have left the others
        refuse_existing(fields_out, "table of fields")
    manifest = read_manifest(bundle)
    classes = manifest.class_set
    found = find_images(places, SUFFIXES)
    subjects: dict[str, str | None] = {}
    spellings: dict[str, list[str]] = {}
    if subject is not None:
        if not resume:
            refuse_existing(subjects_table(out), "table of subjects")
        paths = [file.path for file in found.files]
        names, spellings = name_subjects(paths, subject)
        subjects = dict(zip(paths, names, strict=True))
    more = answer_columns(classes)
    job = {
        "bundle": hashlib.sha256(read_bytes(join(bundle, MANIFEST))).hexdigest(),
        "images": files_digest(found.files),
        "settings": settings.model_dump_json(),
    }
    parts = Parts(out, job, part_schema(more), resume)
    missing = parts.missing(len(found.files))
    arguments = {"settings": settings.model_dump(), "bundle": bundle}
    done = len(found.files) - len(missing)
    with bar("predict: fields", "field") as progress:
        progress(done, len(found.files))
        for part in work(
            found.files, missing, arguments, workers=workers, gpus=gpus, address=address
        ):
            parts.add(part)
            done += len(part)
            progress(done, len(found.files))
    rows = parts.table(len(found.files))
    cells = cells_table(rows, more).rename_columns({"file": "field"})
    fields = fields_table(rows).rename_columns({"file": "field"})
    statuses = fields["status"].to_pylist()
    reasons, warnings = words(fields, "reasons"), words(fields, "warnings")
    try:
        check_any_examined(statuses, reasons, details_of(rows))
    except DataError:
        parts.remove()
        raise
    listed = cells.select(["field", "label", "reasons", "clump"]).to_pylist()
    for cell in listed:
        cell["reasons"] = (cell["reasons"] or "failed").split()
    values: dict[str, Any] = {
        "out": str(out),
        "fields_out": str(fields_out),
        "fields": {"all": len(fields)} | dict(Counter(statuses)),
        "reasons": dict(Counter(reasons).most_common()),
        "warnings": dict(Counter(warnings).most_common()),
        "details": details_of(rows),
        "summary": summarise_cells(listed, classes.names),
        "left_out": found.left_out,
    }
    write_rows(fields_out, _with_counts(fields, listed, classes.names))
    if subject is not None:
        # A clump is no cell.
        of_cells = [None if cell["clump"] else subjects[cell["field"]] for cell in listed]
        values["subjects_out"] = str(subjects_table(out))
        named = [one for one in subjects.values() if one is not None]
        patients = write_subjects(out, cells, of_cells, manifest, named)
        values |= {"subjects": len(patients), "patients": patients}
        values["subject_spellings"] = spellings
        values["without_subject"] = sum(one is None for one in subjects.values())
    write_rows(out, cells)
    parts.remove()
    return values


def _beside(out: Location, what: str) -> Location:
    stem, _, suffix = name_of(out).rpartition(".")
    return join(parent(out), f"{stem}-{what}.{suffix}")


def _with_counts(
    fields: pa.Table, cells: Sequence[dict[str, Any]], classes: Sequence[str]
) -> pa.Table:
    """Return the table of fields with its answered cells, in all and of each class."""
    counts = Counter((cell["field"], cell["label"]) for cell in cells)
    names = fields["field"].to_pylist()
    by_class = {name: [counts[field, name] for field in names] for name in classes}
    answered = [sum(each) for each in zip(*by_class.values(), strict=True)]
    fields = fields.append_column("answered", pa.array(answered, pa.int64()))
    for name, numbers in by_class.items():
        fields = fields.append_column(f"cells:{name}", pa.array(numbers, pa.int64()))
    return fields
