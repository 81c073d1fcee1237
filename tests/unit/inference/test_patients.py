"""What is said of a patient: counted once, corrected where patients allow, and called."""

import pytest

from leuk_ray.bundles.manifest import ModelManifest
from leuk_ray.evaluation.blast_percentage import ErrorRates, PatientCounts
from leuk_ray.evaluation.decisions import Decisions
from leuk_ray.inference.patients import summarise_patient
from tests.support.serving_bundles import plain_manifest as manifest


def rates(patients: int) -> ErrorRates:
    return ErrorRates(
        positive=(PatientCounts(cells=50, answered=45, called=42),) * patients,
        other=(PatientCounts(cells=50, answered=45, called=3),) * patients,
    )


def test_every_cell_is_answered_abstained_or_unreadable():
    counts = summarise_patient(["ALL", "healthy", "abstain", None, "ALL"], manifest()).counts
    assert (counts.cells, counts.answered, counts.abstained, counts.unreadable) == (5, 3, 1, 1)
    assert counts.called_all == 2
    assert counts.share == pytest.approx(2 / 3)
    assert counts.low is not None
    assert counts.high is not None
    assert counts.low < 2 / 3 < counts.high
    nothing = summarise_patient([None, "abstain"], manifest(error_rates=rates(20)))
    assert nothing.counts.share is None
    assert (nothing.blast_percentage, nothing.basis) == (None, "no cell was answered")


def test_the_percentage_is_corrected_and_says_with_what():
    labels = ["ALL"] * 20 + ["healthy"] * 80 + ["abstain"] * 5
    fields = [str(number % 10) for number in range(len(labels))]
    found = summarise_patient(labels, manifest(error_rates=rates(20)), fields)
    assert found.blast_percentage is not None
    blasts = found.blast_percentage
    # 20% are called; 42 of 45 blasts and 3 of 45 others are: (0.2 - 3/45) / (39/45) = 15%.
    assert blasts.value == pytest.approx(15, abs=2)
    assert 0 <= blasts.low < 10 < 20 < blasts.high < 40
    assert found.basis == (
        "corrected with error rates on the blasts of 20 calibration patients and on the other "
        "cells of 20"
    )
    alone = summarise_patient(labels, manifest(error_rates=rates(20)))
    assert alone.basis.endswith("; cells without a field of view are taken as independent")
    assert alone.as_dict()["blast_percentage"]["low"] == alone.blast_percentage.low  # pyright: ignore


def test_without_enough_calibration_patients_it_says_why_not():
    few = summarise_patient(["ALL"], manifest(error_rates=rates(9)))
    assert few.blast_percentage is None
    assert "of 9 calibration patients and on the other cells of 9; 10 of either" in few.basis
    assert "leuk-ray calibrate" in summarise_patient(["ALL"], manifest()).basis
    none = summarise_patient(["a"], manifest(classes=("a", "b", "c"), positive=()))
    assert (none.basis, none.blast_percentage, none.call) == ("", None, None)


def test_a_patient_is_called_by_the_blast_fraction_fixed_in_calibration():
    decisions = Decisions(
        source="", cells=100, num_all=50, num_healthy=50, num_subjects=20, blast_fraction=0.3
    )
    fixed = manifest(decisions=decisions)
    assert summarise_patient(["ALL"] * 3 + ["healthy"] * 7, fixed).call == "ALL"
    assert summarise_patient(["ALL"] * 2 + ["healthy"] * 7, fixed).call == "healthy"
    assert summarise_patient(["abstain"], fixed).call is None
    assert summarise_patient(["ALL"], manifest()).call is None


def test_error_rates_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="called 5, answered 4 of 10"):
        PatientCounts(cells=10, answered=4, called=5)
    assert "error_rates" not in manifest().model_dump()
    kept = manifest(error_rates=rates(2)).model_dump(mode="json")
    assert ModelManifest(**kept).error_rates == rates(2)
