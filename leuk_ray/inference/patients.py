"""What a bundle says of a patient: counts, differential, blast percentage, and a call.

Tables of answers, HTTP and fields of view all take it from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from leuk_ray.bundles.manifest import BundleManifest
from leuk_ray.datasets.classes import ABSTAIN
from leuk_ray.evaluation.blast_percentage import BlastPercentage, blast_percentage, count_fields
from leuk_ray.evaluation.differential import ClassShare, differential
from leuk_ray.evaluation.subjects import Subject, summarise


@dataclass(frozen=True)
class PatientSummary:
    """The cells of one patient.

    counts: how many cells were called what. differential: share of each class among the answered
    cells. blast_percentage: corrected for the classifier's known errors, else None; `basis` says
    with what, or why there is none, and is empty where no class is positive. call: the class that
    the share of called cells speaks for, by the blast fraction that was fixed on calibration
    patients; None without one, or without an answered cell.
    """

    counts: Subject
    differential: list[ClassShare]
    blast_percentage: BlastPercentage | None
    basis: str
    call: str | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as HTTP gives them."""
        blasts = self.blast_percentage
        return asdict(self.counts) | {
            "differential": [asdict(row) for row in self.differential],
            "blast_percentage": asdict(blasts) if blasts else None,
            "basis": self.basis,
            "call": self.call,
        }


def summarise_patient(
    labels: Sequence[str | None],
    manifest: BundleManifest,
    fields: Sequence[str | None] | None = None,
) -> PatientSummary:
    """Summarise the answers for one patient's cells.

    Args:
        labels: (N,) a class, `abstain`, or None for a cell that was not read or scored.
        manifest: of the bundle that answered.
        fields: (N,) the field of view of each cell. Cells without one are taken as independent
            draws, which makes the interval of the blast percentage too narrow where cells of a
            field resemble each other.
    """
    counts = summarise(labels, manifest.positive)
    blasts, basis = None, ""
    if manifest.positive:
        blasts, basis = _blasts(labels, manifest, fields)
    return PatientSummary(
        counts, differential(labels, manifest.classes), blasts, basis, _call(counts, manifest)
    )


def _blasts(
    labels: Sequence[str | None],
    manifest: BundleManifest,
    fields: Sequence[str | None] | None,
) -> tuple[BlastPercentage | None, str]:
    """The corrected blast percentage, and what it stands on or why there is none."""
    rates = manifest.error_rates
    if rates is None:
        return None, "error rates by patient are unknown: `leuk-ray calibrate` measures them"
    if rates.shortage:
        return None, rates.shortage
    calls = [None if label in (ABSTAIN, None) else label in manifest.positive for label in labels]
    called, answered = count_fields(calls, fields)
    if not answered.sum():
        return None, "no cell was answered"
    basis = f"corrected with {rates.described}"
    if fields is None or None in fields:
        basis += "; cells without a field of view are taken as independent"
    return blast_percentage(called, answered, rates), basis


def _call(counts: Subject, manifest: BundleManifest) -> str | None:
    """The class that a patient is called; of two classes only."""
    decisions = manifest.decisions
    if decisions is None or decisions.blast_fraction is None or counts.share is None:
        return None
    return manifest.classes[int(counts.share >= decisions.blast_fraction)]
