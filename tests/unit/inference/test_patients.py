"""What is said of a patient: counted once, corrected where patients allow, and called."""

import pytest

from leuk_ray.bundles.manifest import ModelManifest
from leuk_ray.evaluation.decided import classify_subjects
from leuk_ray.evaluation.decisions import Decisions
from leuk_ray.evaluation.error_rates import (
    DetectorRecall,
    ErrorRates,
    FoundCells,
    PatientCounts,
)
from leuk_ray.inference.patients import PatientCell, summarise_patient
from tests.support.serving_bundles import plain_manifest as manifest
from tests.unit.evaluation.test_decisions import subject


def answers(*labels: str | None, fields: int | None = None) -> list[PatientCell]:
    """Cells, in turn of one of some fields."""
    return [
        PatientCell(label, field=None if fields is None else str(number % fields))
        for number, label in enumerate(labels)
    ]


def rates(patients: int) -> ErrorRates:
    return ErrorRates(
        positive=(PatientCounts(cells=50, answered=45, called=42),) * patients,
        other=(PatientCounts(cells=50, answered=45, called=3),) * patients,
    )


def test_every_cell_is_answered_abstained_or_unreadable():
    counts = summarise_patient(answers("ALL", "healthy", "abstain", None, "ALL"), manifest()).counts
    assert (counts.cells, counts.answered, counts.abstained, counts.unreadable) == (5, 3, 1, 1)
    assert (counts.called_positive, counts.called_share) == (2, pytest.approx(2 / 3))
    # Clopper-Pearson of 2 of 3.
    interval = (counts.called_share_low, counts.called_share_high)
    assert interval == pytest.approx((0.0943, 0.9916), abs=1e-4)
    nothing = summarise_patient(answers(None, "abstain"), manifest(error_rates=rates(20)))
    assert nothing.counts.called_share is None
    assert (nothing.blast_percentage, nothing.basis) == (None, "no cell was answered")


def test_the_percentage_is_corrected_and_says_with_what():
    labels = ["ALL"] * 20 + ["healthy"] * 80 + ["abstain"] * 5
    found = summarise_patient(answers(*labels, fields=10), manifest(error_rates=rates(20)))
    assert found.blast_percentage is not None
    blasts = found.blast_percentage
    # 20% are called; 42 of 45 blasts and 3 of 45 others are: (0.2 - 3/45) / (39/45) = 15%.
    assert blasts.value == pytest.approx(15, abs=2)
    assert 0 <= blasts.low < 10 < 20 < blasts.high < 40
    assert found.basis == (
        "corrected with error rates on the blasts of 20 calibration patients and on the other "
        "cells of 20; misses of the detector are not measured: `leuk-ray calibrate --misses` takes "
        "them"
    )
    # Three of four blasts are found, and every other cell: of those present, more are blasts.
    recall = DetectorRecall(
        positive=(FoundCells(cells=40, found=30),) * 30,
        other=(FoundCells(cells=40, found=40),) * 30,
        counted_by="patients",
    )
    measured = manifest(error_rates=rates(20).model_copy(update={"detector": recall}))
    more = summarise_patient(answers(*labels, fields=10), measured)
    assert more.blast_percentage is not None
    assert more.blast_percentage.value == pytest.approx(19, abs=2)  # 15 / 0.75 of 100 + 5
    assert more.blast_percentage.high > blasts.high
    assert more.basis.endswith("the blasts of 30 and other cells of 30 patients")
    alone = summarise_patient(answers(*labels), manifest(error_rates=rates(20)))
    assert alone.basis.endswith("; cells without a field of view are taken as independent")
    assert alone.as_dict()["blast_percentage"]["low"] == alone.blast_percentage.low  # pyright: ignore


def test_without_enough_calibration_patients_it_says_why_not():
    few = summarise_patient(answers("ALL"), manifest(error_rates=rates(9)))
    assert few.blast_percentage is None
    assert "of 9 calibration patients and on the other cells of 9; 10 of either" in few.basis
    assert "leuk-ray calibrate" in summarise_patient(answers("ALL"), manifest()).basis
    none = summarise_patient(answers("a"), manifest(classes=("a", "b", "c"), positive=()))
    assert (none.basis, none.blast_percentage, none.call) == ("", None, None)


def test_a_picture_counts_once_for_a_patient_however_often_it_is_given():
    fixed = manifest(error_rates=rates(20))
    cells = [
        PatientCell.of({"label": "ALL", "pixels_sha256": str(number), "x0": 5}, "field")
        for number in range(10)
    ]
    once = summarise_patient(cells, fixed).as_dict()
    copies = [PatientCell(cell.label, cell.picture, "other name") for cell in cells]
    twice = summarise_patient(cells + copies, fixed).as_dict()
    assert (once.pop("copies"), twice.pop("copies")) == (0, 10)
    assert once == twice
    assert once["cells"] == 10
    # Near a corner of a field, the crops of two cells may be equal.
    row = {"label": "ALL", "pixels_sha256": "0"}
    corner = [PatientCell.of(row | {"x0": x}, "field") for x in (3, 20)]
    assert summarise_patient(corner, fixed).counts.cells == 2
    assert summarise_patient(answers("ALL", "ALL", None, None), fixed).copies == 0


def test_a_patient_is_called_by_the_blast_fraction_fixed_in_calibration():
    decisions = Decisions(
        source="", cells=100, num_all=50, num_healthy=50, num_subjects=20, blast_fraction=0.3
    )
    fixed = manifest(decisions=decisions)

    def called(blasts: int, others: int) -> tuple[str | None, float | None, str]:
        cells = answers(*["ALL"] * blasts, *["healthy"] * others)
        found = summarise_patient(cells, fixed)
        return found.call, found.call_cut, found.call_basis

    basis = "cut 30.0% of answered cells, fixed on 20 calibration patients"
    assert called(30, 30) == ("ALL", 0.3, basis)
    assert called(6, 60) == ("healthy", 0.3, basis)
    # The interval of so few cells holds the cut, whatever they are called.
    one = "not called: the 95% interval, 2.5% to 100.0% of 1 answered cell, holds the cut"
    assert called(1, 0) == (None, 0.3, f"{one}; {basis}")
    assert (called(0, 10)[0], called(0, 11)[0]) == (None, "healthy")
    assert called(20, 50)[0] is None
    assert called(0, 0) == (None, 0.3, f"not called: no cell was answered; {basis}")
    # The report of `evaluate` calls a patient as `predict` and the service do.
    every = [(blasts, others) for blasts in range(0, 30, 3) for others in range(0, 30, 3)]
    rows = [subject(f"{pair}", "ALL", sum(pair), pair[0]) for pair in every if sum(pair)]
    told = [called(*pair)[0] for pair in every if sum(pair)]
    report = classify_subjects(rows, [0.3] * len(rows))
    assert report["not_called"] == told.count(None) > 0
    assert report["sensitivity"]["numerator"] == told.count("ALL") > 0
    assert len(report["wrong"]) == told.count("healthy") > 0
    unknown = summarise_patient(answers("ALL"), manifest())
    assert (unknown.call, unknown.call_cut) == (None, None)
    assert "fixed on calibration patients of both classes" in unknown.call_basis


def test_error_rates_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="called 5, answered 4 of 10"):
        PatientCounts(cells=10, answered=4, called=5)
    assert "error_rates" not in manifest().model_dump()
    kept = manifest(error_rates=rates(2)).model_dump(mode="json")
    assert ModelManifest(**kept).error_rates == rates(2)
