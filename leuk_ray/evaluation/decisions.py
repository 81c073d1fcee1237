"""Decisions as a laboratory takes them: operating points, a subject's call, and when to abstain.

Each is fixed on cells that neither trained nor are tested; `decided` applies it to the test cells
with the counts it gives there. A threshold evaluated on the cells that it was chosen on would look
better than it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, NonNegativeInt

from leuk_ray.evaluation.calibration import abstain_band
from leuk_ray.evaluation.intervals import MIN_PURE, FloatArray, IntArray
from leuk_ray.evaluation.subjects import SubjectRow
from leuk_ray.utils.settings import Settings
from leuk_ray.utils.wording import counted

TARGETS = (0.90, 0.95)
ABSTAIN_SHARES = (0.05, 0.10, 0.20)
FEW_CELLS, FEW_SUBJECTS = 100, 20  # below either, what is fixed on them is said to be uncertain

Side = Literal["sensitivity", "specificity"]
_SIDES: tuple[Side, ...] = ("specificity", "sensitivity")


class OperatingPoint(Settings):
    """A threshold that reaches a target on the cells it was fixed on.

    held: what is to be reached there. target: 0..1.
    log_odds: uncalibrated; a cell is called ALL from this value on.
    """

    held: Side
    target: float = Field(ge=0, le=1)
    log_odds: float


class AbstainBand(Settings):
    """Probabilities between its ends get no answer; `share` of the cells it was fixed on lie so."""

    share: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)


class Decisions(Settings):
    """What was fixed, and on how much.

    source: which cells, in words. cells, num_all, num_healthy: how many of them.
    num_subjects: subjects of one class among them.
    points: operating points; none where a class is missing.
    blast_fraction: a subject is called ALL from this share of its cells called ALL on; None
        unless there are subjects of both classes, and hardly any with cells of both.
    bands: abstain bands around the threshold.
    """

    source: str
    cells: NonNegativeInt
    num_all: NonNegativeInt
    num_healthy: NonNegativeInt
    num_subjects: NonNegativeInt
    points: tuple[OperatingPoint, ...] = ()
    blast_fraction: float | None = None
    bands: tuple[AbstainBand, ...] = ()

    def basis(self, names: tuple[str, str]) -> str:
        """Say what it was fixed on: `26 cells (13 ALL, 13 healthy) of 7 subjects with ...`.

        Args:
            names: of healthy and ALL cells, or of the two sides of the binary view.
        """
        subjects = "subjects that are unknown or have cells of both classes"
        if self.num_subjects:
            subjects = f"{counted(self.num_subjects, 'subject')} with cells of one class"
        classes = f"{self.num_all:,} {names[1]}, {self.num_healthy:,} {names[0]}"
        return f"{counted(self.cells, 'cell')} ({classes}) of {subjects}"

    @property
    def caution(self) -> str:
        """That this is little to fix anything on; empty where it is enough."""
        if self.cells >= FEW_CELLS and self.num_subjects >= FEW_SUBJECTS:
            return ""
        return (
            "That is little to fix a temperature, thresholds and a band on: with other cells they "
            "may come out quite different."
        )


def fix_decisions(
    label: IntArray,
    logit: FloatArray,
    subjects: Sequence[SubjectRow],
    *,
    temperature: float,
    threshold: float,
    source: str,
    shares: Sequence[float] = ABSTAIN_SHARES,
) -> Decisions:
    """Fix every decision on cells that neither trained nor will be tested.

    Args:
        label: (N,) 1 ALL, 0 healthy.
        logit: (N,) log-odds of ALL, not yet divided by the temperature.
        subjects: what `per_subject` says of these cells at `threshold`.
        temperature: of the bundle.
        threshold: probability from which on a cell is called ALL.
        source: which cells these are, for the reader.
        shares: of the cells to leave without an answer, each 0..1.
    """
    num_all = int((label == 1).sum())
    points = []
    if 0 < num_all < len(label):
        points = [
            OperatingPoint(
                held=held,
                target=target,
                log_odds=operating_threshold(label, logit, held, target),
            )
            for held in _SIDES
            for target in TARGETS
        ]
    bands = []
    for share in sorted({share for share in shares if share > 0}):
        if len(label) and (found := abstain_band(logit, temperature, threshold, share)):
            bands.append(AbstainBand(share=share, low=found[0], high=found[1]))
    pure = [row for row in subjects if row["label"] != "mixed"]
    return Decisions(
        source=source,
        cells=len(label),
        num_all=num_all,
        num_healthy=len(label) - num_all,
        num_subjects=len(pure),
        points=tuple(points),
        # Where many patients have both kinds of cells, being one of a class is no state of them.
        blast_fraction=subject_threshold(pure) if len(pure) >= MIN_PURE * len(subjects) else None,
        bands=tuple(bands),
    )


def operating_threshold(label: IntArray, logit: FloatArray, held: Side, target: float) -> float:
    """Find the threshold that reaches the target and gives away least of the other side.

    Of the log-odds that occur, and a value above them all: the lowest from which on the
    specificity is at least `target`, or the highest from which on the sensitivity is.

    Args:
        label: (N,) 1 ALL, 0 healthy; both occur.
        logit: (N,) log-odds; ALL from the threshold on.
        held: what must reach the target.
        target: 0..1.
    """
    values = np.unique(logit)
    values = np.append(values, np.nextafter(values[-1], np.inf))
    own = np.sort(logit[label == (1 if held == "sensitivity" else 0)])
    below = np.searchsorted(own, values, side="left") / len(own)
    if held == "specificity":
        return float(values[np.argmax(below >= target - 1e-12)])
    return float(values[np.flatnonzero(1 - below >= target - 1e-12)[-1]])


def subject_threshold(subjects: Sequence[SubjectRow]) -> float | None:
    """Find the blast fraction with the best mean of sensitivity and specificity of subjects.

    Thresholds lie midway between neighbouring fractions; of equally good ones the one closest
    to one half is taken. None unless both classes occur.
    """
    known = [row for row in subjects if row["blast_fraction"] is not None]
    fraction = np.asarray([row["blast_fraction"] for row in known], float)
    truth = np.asarray([row["label"] == "ALL" for row in known], bool)
    if not truth.any() or truth.all():
        return None
    edges = np.unique(np.concatenate([[0.0, 1.0], fraction]))
    candidates = (edges[1:] + edges[:-1]) / 2
    called = fraction >= candidates[:, None]
    quality = (called[:, truth].mean(axis=1) + (~called[:, ~truth]).mean(axis=1)) / 2
    best = candidates[quality >= quality.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))])


def worst_subjects(subjects: Sequence[SubjectRow], most: int) -> list[SubjectRow]:
    """Order subjects by their share of wrong cells, largest first; those with none are left out."""
    wrong = [row for row in subjects if row["correct"] < row["answered"]]
    return sorted(wrong, key=lambda row: (row["correct"] / row["answered"], -row["answered"]))[
        :most
    ]
