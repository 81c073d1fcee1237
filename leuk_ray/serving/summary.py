"""What the cells of a request say of one subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leuk_ray.bundles.manifest import BundleManifest
from leuk_ray.inference.patients import PatientCell, summarise_patient
from leuk_ray.serving.schemas import SubjectOut


def subject_summary(
    subject: str,
    cells: Sequence[Mapping[str, Any]],
    manifest: BundleManifest,
    fields: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Summarise a subject as `SubjectOut`.

    Args:
        subject: as it was sent.
        cells: each with its `label` and `pixels_sha256`, if it has them.
        manifest: of the bundle that answered.
        fields: the field of view of each cell, where it is known.
    """
    of = fields or [None] * len(cells)
    answers = [PatientCell.of(cell, field) for cell, field in zip(cells, of, strict=True)]
    patient = summarise_patient(answers, manifest)
    return SubjectOut.model_validate({"subject": subject, **patient.as_dict()}).model_dump()
