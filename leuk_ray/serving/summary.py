"""What the cells of a request say of one subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leuk_ray.bundles.manifest import BundleManifest
from leuk_ray.inference.patients import summarise_patient
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
        cells: each with its `label` if it has one.
        manifest: of the bundle that answered.
        fields: the field of view of each cell, where it is known.
    """
    patient = summarise_patient([cell.get("label") for cell in cells], manifest, fields)
    return SubjectOut.model_validate({"subject": subject, **patient.as_dict()}).model_dump()
