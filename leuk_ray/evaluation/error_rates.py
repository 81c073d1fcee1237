"""What calibration patients say of a classifier's errors, and of a detector's, in counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
from pydantic import Field, NonNegativeInt, model_validator

from leuk_ray.utils.settings import Settings

# Patients with cells of either kind: below, the coverage of the interval was not simulated.
MIN_PATIENTS = 10
MAX_PATIENTS = 2000


class PatientCounts(Settings):
    """Cells of one calibration patient that are all blasts, or all others.

    cells: how many; where fields were searched for them, those that were not found among them.
    answered: with a class for an answer. called: called one of the positive classes.
    """

    cells: NonNegativeInt
    answered: NonNegativeInt
    called: NonNegativeInt

    @model_validator(mode="after")
    def _parts_of_a_whole(self) -> Self:
        if not self.called <= self.answered <= self.cells:
            raise ValueError(f"called {self.called}, answered {self.answered} of {self.cells}")
        return self


class FoundCells(Settings):
    """Annotated cells of one patient, or field, that are all blasts, or all others.

    cells: how many. found: of these, by the detector.
    """

    cells: NonNegativeInt = 0
    found: NonNegativeInt = 0

    @model_validator(mode="after")
    def _part_of_a_whole(self) -> Self:
        if self.found > self.cells:
            raise ValueError(f"found {self.found} of {self.cells}")
        return self

    def __add__(self, other: FoundCells) -> FoundCells:
        return FoundCells(cells=self.cells + other.cells, found=self.found + other.found)


class DetectorRecall(Settings):
    """How many annotated cells a detector found; it may miss more of the blasts than of others.

    positive, other: cells of a positive class, and others, each by patient or by field.
    counted_by: which of the two.
    """

    positive: tuple[FoundCells, ...] = Field(min_length=MIN_PATIENTS, max_length=MAX_PATIENTS)
    other: tuple[FoundCells, ...] = Field(min_length=MIN_PATIENTS, max_length=MAX_PATIENTS)
    counted_by: Literal["patients", "fields"]

    @property
    def described(self) -> str:
        """What was measured, in words."""
        blasts, others = len(self.positive), len(self.other)
        return f"misses of the detector on the blasts of {blasts} and other cells of {others} " + (
            self.counted_by
        )


class ErrorRates(Settings):
    """What calibration patients say of a classifier's errors, without names.

    positive: of each patient with cells of a positive class, these. other: of each with other
    cells, those; one patient may have both. detector: of cells in fields, what was measured of
    the detector's misses; None where it was not.
    """

    positive: tuple[PatientCounts, ...] = Field(max_length=MAX_PATIENTS)
    other: tuple[PatientCounts, ...] = Field(max_length=MAX_PATIENTS)
    detector: DetectorRecall | None = None

    @property
    def counts(self) -> tuple[int, int]:
        """Of how many patients blasts, and of how many other cells, got an answer."""
        return _answered(self.positive), _answered(self.other)

    @property
    def described(self) -> str:
        """What was measured, in words; a patient with both kinds of cells is in both numbers."""
        blasts, others = self.counts
        return (
            f"error rates on the blasts of {blasts} calibration patients and on the other cells of "
            f"{others}"
        )

    @property
    def shortage(self) -> str:
        """Why they are too few to correct with; empty where they are enough."""
        if min(self.counts) >= MIN_PATIENTS:
            return ""
        return f"{self.described}; {MIN_PATIENTS} of either are needed"


def _answered(patients: Sequence[PatientCounts]) -> int:
    return sum(each.answered > 0 for each in patients)


def count_errors(
    positive: Sequence[bool] | np.ndarray,
    called: Sequence[bool | None],
    patients: Sequence[str],
) -> ErrorRates:
    """Count calls by calibration patient.

    Args:
        positive: (N,) whether each cell is of a positive class.
        called: (N,) whether it is called one; None where it got no answer.
        patients: (N,) of each cell, or the group that patients are known by.
    """
    counts: dict[bool, dict[str, list[int]]] = {True: {}, False: {}}
    for truth, call, patient in zip(positive, called, patients, strict=True):
        own = counts[bool(truth)].setdefault(patient, [0, 0, 0])
        own[0] += 1
        own[1] += call is not None
        own[2] += call is True
    of = {
        truth: tuple(
            PatientCounts(cells=cells, answered=answered, called=calls)
            for cells, answered, calls in sorted(by_patient.values())
        )
        for truth, by_patient in counts.items()
    }
    return ErrorRates(positive=of[True], other=of[False])
