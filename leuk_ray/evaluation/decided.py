"""Decisions that were fixed on other cells, applied to the test cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from leuk_ray.evaluation.calibration import probability
from leuk_ray.evaluation.decisions import Decisions
from leuk_ray.evaluation.intervals import BoolArray, FloatArray, GroupResamples, IntArray
from leuk_ray.evaluation.metric_intervals import count_samples
from leuk_ray.evaluation.metrics import confusion, ratio, sensitivity, specificity
from leuk_ray.evaluation.proportions import clopper_pearson
from leuk_ray.evaluation.subjects import SubjectRow, call_subject

FOLD = "fold"  # the column of predictions of a cross-validation


@dataclass(frozen=True)
class FixedFor:
    """Decisions, and the test cells that they are for: all, or those of one fold, (N,) bool."""

    decisions: Decisions
    cells: BoolArray


def parts_of(validation: pa.Table, test: pa.Table) -> list[tuple[BoolArray, BoolArray]]:
    """Pair validation cells with the test cells that they fix decisions for: all, or fold by fold.

    The network of a fold scored both and trained on neither, so no test cell of a fold takes part
    in a decision on it.
    """
    if FOLD not in test.column_names:
        return [(np.ones(len(validation), bool), np.ones(len(test), bool))]
    fixing, tested = validation[FOLD].to_numpy(), test[FOLD].to_numpy()
    return [(fixing == fold, tested == fold) for fold in np.unique(tested)]


def _of_cells(fixed: Sequence[FixedFor], values: Sequence[float]) -> FloatArray:
    """Return a value of each of the decisions for the test cells they are for, (N,)."""
    out = np.empty(len(fixed[0].cells))
    for one, value in zip(fixed, values, strict=True):
        out[one.cells] = value
    return out


def of_subjects(
    fixed: Sequence[FixedFor], test: pa.Table, subjects: Sequence[SubjectRow]
) -> list[float] | None:
    """Return the blast fraction from which on each test subject is called ALL.

    None where one of the decisions has none, or a subject has cells in several folds.
    """
    fractions = [one.decisions.blast_fraction for one in fixed]
    known = [fraction for fraction in fractions if fraction is not None]
    if len(known) < len(fixed) or not subjects:
        return None
    number = _of_cells(fixed, range(len(fixed)))
    of_subject: dict[str, set[int]] = {}
    for name, own in zip(test["subject"].to_pylist(), number.astype(int).tolist(), strict=True):
        of_subject.setdefault(name, set()).add(own)
    if any(len(of_subject[row["subject"]]) > 1 for row in subjects):
        return None
    return [known[min(of_subject[row["subject"]])] for row in subjects]


def apply_points(
    fixed: Sequence[FixedFor],
    label: IntArray,
    logit: FloatArray,
    temperature: float,
    resampled: GroupResamples,
) -> list[dict[str, Any]]:
    """Apply each operating point to other cells: sensitivity and specificity with intervals.

    Its log-odds and probability are None where they differ by fold; there is no point where one of
    the folds has none.
    """
    out = []
    for points in zip(*(one.decisions.points for one in fixed), strict=False):
        point = points[0]
        called = logit >= _of_cells(fixed, [each.log_odds for each in points])
        stated = point.model_dump() | {
            "probability": float(probability(np.asarray(point.log_odds), temperature))
        }
        if len(fixed) > 1:
            stated |= {"log_odds": None, "probability": None}
        counts = confusion(label, called.astype(float), 0.5)
        samples = count_samples(resampled, label, called)
        out.append(
            {
                **stated,
                "sensitivity": sensitivity(counts),
                "specificity": specificity(counts),
                "intervals": {
                    side: resampled.interval(samples[side])
                    for side in ("sensitivity", "specificity")
                },
            }
        )
    return out


def classify_subjects(
    subjects: Sequence[SubjectRow], blast_fraction: Sequence[float]
) -> dict[str, Any]:
    """Call subjects by their blast fraction as `call_subject` does, and count, with intervals.

    Subjects whose cells carry both labels are left out and counted as `mixed`, those without an
    answered cell as `unanswered`, and those whose interval holds the threshold as `not_called`.
    The exact 95% intervals take subjects as independent: those that share an image are not.

    Args:
        subjects: of the test cells.
        blast_fraction: from which on each of them is called ALL.

    Returns:
        threshold (None where subjects have several), sensitivity, specificity, accuracy ({value,
        numerator, denominator, low, high}; of the called ones), mixed, unanswered, not_called,
        and `wrong`: names of the subjects called wrong.
    """
    calls = {
        row["subject"]: call_subject(
            row["blast_fraction"], row["blast_low"], row["blast_high"], limit
        )
        for row, limit in zip(subjects, blast_fraction, strict=True)
    }
    one_class = [row for row in subjects if row["label"] != "mixed"]
    answered = [row for row in one_class if row["blast_fraction"] is not None]
    pure = [row for row in answered if calls[row["subject"]] is not None]
    truth = np.asarray([row["label"] == "ALL" for row in pure], bool)
    right = truth == np.asarray([calls[row["subject"]] for row in pure], bool)
    parts = {"sensitivity": truth, "specificity": ~truth, "accuracy": np.ones(len(pure), bool)}
    return {
        "threshold": blast_fraction[0] if len(set(blast_fraction)) == 1 else None,
        **{name: _exact(int(right[part].sum()), int(part.sum())) for name, part in parts.items()},
        "mixed": len(subjects) - len(one_class),
        "unanswered": len(one_class) - len(answered),
        "not_called": len(answered) - len(pure),
        "wrong": [row["subject"] for row, fine in zip(pure, right, strict=True) if not fine],
    }


def apply_bands(
    fixed: Sequence[FixedFor],
    label: IntArray,
    stated: FloatArray,
    threshold: float,
    resampled: GroupResamples,
) -> list[dict[str, Any]]:
    """Apply each abstain band to other cells: how many are answered, how many of these rightly.

    Args:
        fixed: decisions with the bands; their ends are None where they differ by fold.
        label: (N,) 1 ALL, 0 healthy.
        stated: (N,) probability of ALL, 0..1.
        threshold: a cell is called ALL from this probability on.
        resampled: the groups of these cells, left out or resampled.
    """
    right = (stated >= threshold) == (label == 1)
    out = []
    for bands in zip(*(one.decisions.bands for one in fixed), strict=False):
        low, high = (
            _of_cells(fixed, [getattr(band, end) for band in bands]) for end in ("low", "high")
        )
        answered: BoolArray = ~((stated > low) & (stated < high))
        ends = {} if len(fixed) == 1 else {"low": None, "high": None}
        num_answered, num_right = int(answered.sum()), int((right & answered).sum())
        with np.errstate(invalid="ignore", divide="ignore"):
            samples = resampled.sums(right & answered) / resampled.sums(answered)
        out.append(
            {
                **bands[0].model_dump(),
                **ends,
                "answered": ratio(num_answered, len(label)),
                "accuracy": ratio(num_right, num_answered),
                "interval": resampled.interval(samples),
            }
        )
    return out


def _exact(successes: int, trials: int) -> dict[str, Any]:
    low, high = clopper_pearson(successes, trials) or (None, None)
    return {**ratio(successes, trials), "low": low, "high": high}
