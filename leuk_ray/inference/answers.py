"""A table of answers that grows part by part, so that a killed job goes on where it was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from leuk_ray.bundles.manifest import MANIFEST, BundleManifest, read_manifest
from leuk_ray.datasets.classes import BINARY, ClassSet
from leuk_ray.inference.files import ImageFile, check_any_scored, files_digest
from leuk_ray.inference.patients import PatientCell, PatientSummary, summarise_patient
from leuk_ray.inference.predictions import (
    Failure,
    Prediction,
    answer_row,
    answers_schema,
)
from leuk_ray.io.locations import Location, join, name_of, parent
from leuk_ray.io.parts import Parts
from leuk_ray.io.storage import read_bytes, refuse_existing
from leuk_ray.io.tables import write_rows
from leuk_ray.utils.errors import ConfigError


def part_of(
    numbers: Sequence[int],
    answers: Sequence[Prediction | Failure],
    classes: ClassSet = BINARY,
) -> pa.Table:
    """Make a part of a job's answers, with the numbers of the images they are for.

    Args:
        numbers: of the images.
        answers: for them.
        classes: of the bundle that answered.
    """
    rows = [
        answer_row(item) | {"number": number} for number, item in zip(numbers, answers, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=_part_schema(classes))


def _part_schema(classes: ClassSet) -> pa.Schema:
    kept = [field for field in answers_schema(classes) if field.name != "path"]
    return pa.schema([pa.field("number", pa.int64()), *kept])


class Answers:
    """Answers on their way into a table of `answers_schema`.

    Parts lie in TABLE.parts/ until all are there; then the table appears at once, in the order
    of the images.
    """

    def __init__(
        self, out: Location, bundle: Location, files: Sequence[ImageFile], resume: bool
    ) -> None:
        """Begin, or go on with what a killed job left.

        Args:
            out: the table, .csv or .parquet.
            bundle: whose answers they are.
            files: the images, by number.
            resume: go on where parts of the same job lie: of this bundle, and of images that
                have the same places, sizes and times.

        Raises:
            UserError: `out` is there, or parts of another job are, or `resume` was not asked for.
        """
        if not name_of(out).endswith((".csv", ".parquet")):
            raise ConfigError(f"--out {out}: name a .csv or .parquet file")
        refuse_existing(out, "table of answers")
        self.out, self.files = out, files
        self.manifest = read_manifest(bundle)
        self.classes = self.manifest.class_set
        digest = hashlib.sha256(read_bytes(join(bundle, MANIFEST))).hexdigest()
        job = {"bundle": digest, "images": files_digest(files)}
        self._parts = Parts(out, job, _part_schema(self.classes), resume)

    def missing(self) -> list[int]:
        """Numbers of the images without an answer."""
        return self._parts.missing(len(self.files))

    def add(self, part: pa.Table) -> None:
        """Keep a part; what was kept survives a kill."""
        self._parts.add(part)

    def finish(self) -> pa.Table:
        """Write the table and remove the parts.

        Raises:
            AssertionError: an image has no answer, or two.
            UserError: no image could be scored; the parts are removed.
        """
        parts = self._parts.table(len(self.files))
        if not parts["error"].null_count:
            self._parts.remove()
            check_any_scored(parts.select(["name", "error"]).to_pylist())
        paths = pa.array([file.path for file in self.files], pa.string())
        table = parts.append_column("path", paths).select(answers_schema(self.classes).names)
        write_rows(self.out, table)
        self._parts.remove()
        return table


def subjects_table(out: Location) -> Location:
    """Name the table of subjects: it lies beside the table of answers `out`."""
    stem, _, suffix = name_of(out).rpartition(".")
    return join(parent(out), f"{stem}-subjects.{suffix}")


def write_subjects(
    out: Location,
    answers: pa.Table,
    subjects: Sequence[str | None],
    manifest: BundleManifest,
    named: Iterable[str] = (),
) -> list[dict[str, Any]]:
    """Write a table of subjects; return each as `patients.PatientSummary.as_dict`, with `subject`.

    Args:
        out: the table of answers beside which it lies.
        answers: in `answers_schema`; with `field`, x0 and y0 of cells in fields of view.
        subjects: of each answer; one without is left out.
        manifest: of the bundle that answered.
        named: subjects that have a row also without a cell.
    """
    of = {"label", "pixels_sha256", "field", "x0", "y0"} & set(answers.column_names)
    cells: dict[str, list[PatientCell]] = {key: [] for key in named}
    for subject, row in zip(subjects, answers.select(sorted(of)).to_pylist(), strict=True):
        if subject is not None:
            cells.setdefault(subject, []).append(PatientCell.of(row, row.get("field")))
    patients = {key: summarise_patient(cells[key], manifest) for key in sorted(cells)}
    rows = [{"subject": key} | _columns(one, manifest) for key, one in patients.items()]
    write_rows(subjects_table(out), pa.Table.from_pylist(rows))
    return [{"subject": key} | one.as_dict() for key, one in patients.items()]


def _columns(patient: PatientSummary, manifest: BundleManifest) -> dict[str, Any]:
    """Return a subject's row; with the differential unless the classes are healthy and ALL."""
    row = asdict(patient.counts)
    if not manifest.positive:
        row = {name: row[name] for name in ("cells", "answered", "abstained", "unreadable")}
    row["copies"] = patient.copies
    if manifest.class_set != BINARY:
        for each in patient.differential:
            row |= {f"cells:{each.name}": each.cells, f"share:{each.name}": each.share}
            row[f"simultaneous_low:{each.name}"] = each.low
            row[f"simultaneous_high:{each.name}"] = each.high
    if manifest.positive:
        blasts = patient.blast_percentage
        row["blast_percentage"] = blasts.value if blasts else None
        row["blast_percentage_low"] = blasts.low if blasts else None
        row["blast_percentage_high"] = blasts.high if blasts else None
        row |= {"basis": patient.basis, "call": patient.call}
        row |= {"call_cut": patient.call_cut, "call_basis": patient.call_basis}
    return row


def count_labels(answers: pa.Table) -> dict[str, int]:
    """Count the images that got each label; `failed` those that could not be scored."""
    counts = pc.value_counts(answers["label"].fill_null("failed")).to_pylist()  # pyright: ignore
    return {item["values"]: item["counts"] for item in counts}
