"""Prediction sets with a guarantee: class-conditional conformal prediction over patients.

A class is in the set of a cell where the cell's log-odds of it reach a limit. The limit of a class
is a quantile over calibration patients who have cells of the class: each of G patients weighs
1 / (G + 1), spread evenly over their cells of the class, and 1 / (G + 1) lies at infinity. For a
random cell of a class, of a new random patient who has such cells, the class is then in the set
with a probability of at least `coverage`, whatever the network and however unlike the patients
are, as long as the new patient is exchangeable with those of the calibration, none of whom trained
the network. The probability is over calibration patients and new patients together, not for each
patient. Cells that are taken for independent (`pooled_limit`) carry no such guarantee.

Sources: Dunn, Wasserman and Ramdas 2023, "Distribution-free prediction sets for two-layer
hierarchical models", JASA 118:2491; Lee, Barber and Willett 2023, "Distribution-free inference with
hierarchical data", arXiv 2306.06342 (the weights); Vovk 2012 (class-conditional, "Mondrian").

Log-odds are of a class against all others, not divided by a temperature: a temperature that is
fitted on the same cells would depend on them, and of two classes it changes no set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveInt

from leuk_ray.evaluation.calibration import class_log_odds
from leuk_ray.evaluation.intervals import BoolArray, FloatArray, IntArray
from leuk_ray.utils.errors import DataError
from leuk_ray.utils.settings import Settings
from leuk_ray.utils.wording import counted

UNCERTAIN_SET = "uncertain_set"
Basis = Literal["unseen", "validation", "folds"]
_CAUTION: dict[Basis, str] = {
    "unseen": "",
    "validation": "The patients of the calibration also chose the epoch of the training, so the "
    "guarantee is approximate.",
    "folds": "Each patient of the calibration was scored by the network of one fold and the mean "
    "of all networks answers, so the guarantee is approximate.",
}


class ClassLimit(Settings):
    """When a class is in a prediction set, and what its limit was fixed on.

    patients, cells: calibration patients who have cells of the class, and these cells.
    log_odds: of the class against all others; it is in the set from this value on.
    pooled: the same limit from cells taken for independent; reported beside it, never used.
    attainable: the largest coverage that so many patients can guarantee, G / (G + 1).
    share: of the calibration patients' cells of the class, each patient weighing the same, those
        whose set holds it.
    """

    patients: PositiveInt
    cells: PositiveInt
    log_odds: float
    pooled: float
    attainable: float = Field(ge=0, le=1)
    share: float = Field(ge=0, le=1)


class Conformal(Settings):
    """Prediction sets of a bundle.

    coverage: probability that the set of a new patient's cell holds its class, for each class.
    limits: of each class, in the order of the classes.
    basis: whose cells fixed the limits: of patients that took no part in the training (`unseen`),
        that chose its epoch (`validation`), or, of an ensemble, that each fold's network did not
        see (`folds`).
    """

    coverage: float = Field(gt=0, lt=1)
    limits: tuple[ClassLimit, ...]
    basis: Basis = "unseen"

    @property
    def caution(self) -> str:
        """Why the guarantee is approximate; empty where it is exact."""
        return _CAUTION[self.basis]

    def sets(self, class_logits: npt.ArrayLike) -> BoolArray:
        """Say which classes are in the set of each cell, (N, K-1) class logits -> (N, K)."""
        return class_log_odds(np.asarray(class_logits)) >= [one.log_odds for one in self.limits]

    def pooled_sets(self, class_logits: npt.ArrayLike) -> BoolArray:
        """Return the same with limits from cells taken for independent, for comparison."""
        return class_log_odds(np.asarray(class_logits)) >= [one.pooled for one in self.limits]


def sole_class(sets: BoolArray) -> IntArray:
    """Find the one class in each prediction set, (N, K) -> (N,); -1 where several or none."""
    return np.where(sets.sum(axis=1) == 1, sets.argmax(axis=1), -1)


def patients_needed(coverage: float) -> int:
    """Compute the fewest calibration patients of a class that guarantee a coverage, 1/alpha - 1."""
    exact = Fraction(str(coverage))
    return -int(-exact / (1 - exact) // 1)


def fit_conformal(
    class_logits: FloatArray,
    label: IntArray,
    group: Sequence[str],
    names: Sequence[str],
    coverage: float,
    basis: Basis,
) -> Conformal:
    """Fix the limits of all classes on patients that did not train the network.

    Args:
        class_logits: (N, K-1) log-odds of classes 1 to K-1 against class 0.
        label: (N,) 0 to K-1.
        group: (N,) whose cell it is: a patient with all that share an image with them.
        names: of the K classes.
        coverage: see `Conformal`; between 0 and 1.
        basis: see `Conformal`.

    Raises:
        DataError: a class has too few patients for the coverage.
    """
    require_patients(label, group, names, coverage)
    member = np.unique(np.asarray(group), return_inverse=True)[1]
    own = class_log_odds(class_logits)
    limits = []
    for number in range(len(names)):
        rows = label == number
        scores, members = own[rows, number], member[rows]
        limit = patient_limit(scores, members, coverage)
        codes = np.unique(members, return_inverse=True)[1]
        have = int(codes.max()) + 1
        shares = np.bincount(codes, scores >= limit) / np.bincount(codes)
        limits.append(
            ClassLimit(
                patients=have,
                cells=int(rows.sum()),
                log_odds=limit,
                pooled=pooled_limit(scores, coverage),
                attainable=have / (have + 1),
                share=float(shares.mean()),
            )
        )
    return Conformal(coverage=coverage, limits=tuple(limits), basis=basis)


def require_patients(
    label: IntArray, group: Sequence[str], names: Sequence[str], coverage: float
) -> None:
    """Raise a DataError where a class has too few patients for a coverage; see `fit_conformal`."""
    needed, groups = patients_needed(coverage), np.asarray(group)
    patients = [len(np.unique(groups[label == number])) for number in range(len(names))]
    if min(patients) >= needed:
        return
    have = ", ".join(f"{own} of {name}" for name, own in zip(names, patients, strict=True))
    best = math.floor(1000 * min(patients) / (min(patients) + 1)) / 1000
    raise DataError(
        f"--coverage {coverage:g}: needs {counted(needed, 'patient')} of every class to calibrate "
        f"on, and there are {have}; calibrate on more patients"
        + f", or ask for {best:g} at most"
        * (best > 0)
    )


def patient_limit(log_odds: FloatArray, patient: IntArray, coverage: float) -> float:
    """Find the largest limit whose patients' weight of cells at or above it reaches the coverage.

    Args:
        log_odds: (N,) of their own class, of cells of one class.
        patient: (N,) whose cell each is.
        coverage: between 0 and 1.

    Returns:
        The limit; -inf where there are too few patients.
    """
    _, member, sizes = np.unique(patient, return_inverse=True, return_counts=True)
    order = np.argsort(-log_odds, kind="stable")
    weight = np.cumsum(1 / sizes[member[order]])  # of at most G, and one more lies at infinity
    # Sums of 1/n end off their exact value by rounding, which must not cost a cell or a patient.
    place = int(np.searchsorted(weight, coverage * (len(sizes) + 1) - 1e-9))
    return float(log_odds[order[place]]) if place < len(order) else -np.inf


def pooled_limit(log_odds: FloatArray, coverage: float) -> float:
    """Find the limit of split conformal prediction with cells taken for independent, as above."""
    return patient_limit(log_odds, np.arange(len(log_odds)), coverage)
