"""What a bundle says of a patient: counts, differential, blast percentage, and a call.

Tables of answers, HTTP and fields of view all take it from here.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from leuk_ray.bundles.manifest import BundleManifest
from leuk_ray.datasets.classes import ABSTAIN
from leuk_ray.evaluation.blast_percentage import BlastPercentage, blast_percentage, count_fields
from leuk_ray.evaluation.differential import ClassShare, differential
from leuk_ray.evaluation.subjects import Subject, call_subject, summarise
from leuk_ray.utils.wording import counted


@dataclass(frozen=True)
class PatientCell:
    """The answer for one cell of a patient.

    label: a class, `abstain`, or None for a cell that was not read or scored. picture: equal for
    cells that are the same picture; None where that is not known. field: of view; a cell without
    one is taken as an independent draw, which makes the interval of the blast percentage too
    narrow where cells of a field resemble each other.
    """

    label: str | None
    picture: Hashable = None
    field: str | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any], field: str | None = None) -> PatientCell:
        """From a row of a table of answers, or an item of HTTP.

        Two files of the same pixels are the same picture. Of fields of view the place in the
        field counts as well: near a corner, the crops of two cells may be equal.
        """
        pixels = row.get("pixels_sha256")
        picture = None if pixels is None else (pixels, row.get("x0"), row.get("y0"))
        return cls(row.get("label"), picture, field)


@dataclass(frozen=True)
class PatientSummary:
    """The cells of one patient.

    counts: how many cells were called what. copies: pictures that were given again, which are
    left out of everything else. differential: share of each class among the answered cells.
    blast_percentage: corrected for the classifier's known errors, else None; `basis` says with
    what, or why there is none, and is empty where no class is positive. call: the class that the
    share of called cells speaks for; call_cut: the share from which on it is the positive one,
    fixed on calibration patients; call_basis: on how many, or why there is no call.
    """

    counts: Subject
    copies: int
    differential: list[ClassShare]
    blast_percentage: BlastPercentage | None
    basis: str
    call: str | None
    call_cut: float | None
    call_basis: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as HTTP gives them."""
        values = asdict(self)
        return values.pop("counts") | values


def summarise_patient(cells: Sequence[PatientCell], manifest: BundleManifest) -> PatientSummary:
    """Summarise the answers for one patient's cells, each picture once.

    Args:
        cells: all that were given.
        manifest: of the bundle that answered.
    """
    given, cells = len(cells), _without_copies(cells)
    labels = [cell.label for cell in cells]
    counts = summarise(labels, manifest.positive)
    blasts, basis = _blasts(cells, manifest) if manifest.positive else (None, "")
    return PatientSummary(
        counts,
        given - len(cells),
        differential(labels, manifest.classes),
        blasts,
        basis,
        *_call(counts, manifest),
    )


def _without_copies(cells: Sequence[PatientCell]) -> list[PatientCell]:
    """Return the first of each picture, in order."""
    kept: dict[Hashable, PatientCell] = {}
    for number, cell in enumerate(cells):
        kept.setdefault(number if cell.picture is None else cell.picture, cell)
    return list(kept.values())


def _blasts(
    cells: Sequence[PatientCell], manifest: BundleManifest
) -> tuple[BlastPercentage | None, str]:
    """Return the corrected blast percentage, and what it stands on or why there is none."""
    rates = manifest.error_rates
    if rates is None:
        return None, "error rates by patient are unknown: `leuk-ray calibrate` measures them"
    if rates.shortage:
        return None, rates.shortage
    calls = [
        None if cell.label in (ABSTAIN, None) else cell.label in manifest.positive for cell in cells
    ]
    fields = [cell.field for cell in cells]
    called, answered = count_fields(calls, fields)
    if not answered.sum():
        return None, "no cell was answered"
    basis = f"corrected with {rates.described}"
    if rates.detector is not None:
        basis += f"; {rates.detector.described}"
    elif any(field is not None for field in fields):
        basis += (
            "; misses of the detector are not measured: `leuk-ray calibrate --misses` takes them"
        )
    if None in fields:
        basis += "; cells without a field of view are taken as independent"
    return blast_percentage(called, answered, rates), basis


def _call(counts: Subject, manifest: BundleManifest) -> tuple[str | None, float | None, str]:
    """Return the class that a patient is called, of two classes; the cut; on what both stand.

    A patient is called only where the 95% interval of the share of called cells lies on one side
    of the cut: with few cells it does not, whatever they are called.
    """
    if len(manifest.classes) != 2 or not manifest.positive:
        return None, None, ""
    decisions = manifest.decisions
    if decisions is None or decisions.blast_fraction is None:
        return None, None, "no cut: it is fixed on calibration patients of both classes"
    cut, share = decisions.blast_fraction, counts.called_share
    low, high = counts.called_share_low, counts.called_share_high
    subjects = counted(decisions.num_subjects, "calibration patient")
    fixed = f"cut {cut:.1%} of answered cells, fixed on {subjects}"
    if share is None:
        return None, cut, f"not called: no cell was answered; {fixed}"
    positive = call_subject(share, low, high, cut)
    if positive is None:
        between = f"{low:.1%} to {high:.1%} of {counted(counts.answered, 'answered cell')}"
        return None, cut, f"not called: the 95% interval, {between}, holds the cut; {fixed}"
    return manifest.classes[int(positive)], cut, fixed
