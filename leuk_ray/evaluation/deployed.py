"""What a bundle does as it is deployed: which cells it answers for, and how often rightly."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from typing_extensions import TypedDict

from leuk_ray.evaluation.blast_percentage import blast_percentage, count_fields
from leuk_ray.evaluation.calibration import class_logits_of
from leuk_ray.evaluation.conformal import Conformal, sole_class
from leuk_ray.evaluation.error_rates import ErrorRates
from leuk_ray.evaluation.intervals import BoolArray, GroupResamples, IntArray
from leuk_ray.utils.wording import natural

REASONS = "reasons"  # the column of predictions: why a cell gets no answer, empty where it gets one

CALLED = "called"  # of a bundle with prediction sets: the one class in a cell's set, else null


def call_by_sets(table: pa.Table, conformal: Conformal | None) -> pa.Table:
    """Add the column `called` to predictions, where a bundle has prediction sets."""
    if conformal is None or not len(table):
        return table
    sole = sole_class(conformal.sets(class_logits_of(table)))
    return table.append_column(CALLED, pa.array(sole, pa.int64(), mask=sole < 0))


def deployed_calls(table: pa.Table, called: IntArray) -> IntArray:
    """Return the class that answers for each cell, (N,): of `called` where there is one."""
    if CALLED not in table.column_names:
        return called
    sole = table[CALLED]
    return np.where(sole.is_null().to_numpy(), called, sole.fill_null(0).to_numpy())


def answered(table: pa.Table) -> BoolArray:
    """Find whether each cell gets an answer, (N,) bool, by the column `reasons`."""
    return np.asarray([not reasons for reasons in table[REASONS].to_pylist()], bool)


def as_deployed(
    table: pa.Table, label: IntArray, called: IntArray, classes: int, resampled: GroupResamples
) -> dict[str, Any] | None:
    """Count the answers on test cells, and those that are right, with intervals over groups.

    Args:
        table: predictions of the test cells.
        label, called: (N,) 0..K-1.
        classes: how many there are, K.
        resampled: the groups of these cells.

    Returns:
        answered and accuracy and, of two classes, sensitivity and specificity of the answers
        ({value, numerator, denominator}), intervals of these by name, confusion ((K, K) answered
        cells by true and called class), reasons (cells by reason; one may have several). None
        without test cells or the column `reasons`.
    """
    if not len(table) or REASONS not in table.column_names:
        return None
    given, right = answered(table), called == label
    parts = {
        "answered": (given, np.ones(len(table), bool)),
        "accuracy": (right & given, given),
    }
    if classes == 2:
        positive = label == 1
        parts["sensitivity"] = (right & given & positive, given & positive)
        parts["specificity"] = (right & given & ~positive, given & ~positive)
    out: dict[str, Any] = {"intervals": {}}
    for name, (hit, of) in parts.items():
        numerator, denominator = int(hit.sum()), int(of.sum())
        value = numerator / denominator if denominator else None
        out[name] = {"value": value, "numerator": numerator, "denominator": denominator}
        with np.errstate(invalid="ignore", divide="ignore"):
            samples = resampled.sums(hit) / resampled.sums(of)
        out["intervals"][name] = resampled.interval(samples)
    counts = Counter(reason for reasons in table[REASONS].to_pylist() for reason in reasons)
    pairs = np.bincount(label[given] * classes + called[given], minlength=classes**2)
    return out | {
        "confusion": pairs.reshape(classes, classes).tolist(),
        "reasons": dict(sorted(counts.items())),
    }


class PatientPercentage(TypedDict):
    """A subject's blast percentage beside the true one, all 0..100.

    cells: all of the subject's. true: of all its cells, in the dataset. called: of the answered
    ones. value, low, high: corrected, with its 95% interval; None without an answered cell.
    """

    subject: str
    cells: int
    answered: int
    true: float
    called: float | None
    value: float | None
    low: float | None
    high: float | None


class PatientPercentages(TypedDict):
    """Corrected blast percentages of test subjects; held: intervals that hold the true one.

    patients: on whose blasts, and on whose other cells, error rates were measured, in number.
    """

    patients: tuple[int, int]
    held: int
    estimated: int
    mean_error: float | None
    mean_error_called: float | None
    subjects: list[PatientPercentage]


def blast_percentages(
    table: pa.Table, true: BoolArray, called: BoolArray, rates: ErrorRates | None
) -> PatientPercentages | None:
    """Correct the blast percentage of each test subject, and compare it with the true one.

    Args:
        table: predictions of the test cells, with `reasons`; cells without a subject are left out.
        true, called: (N,) whether each cell is of a positive class, and is called one.
        rates: of the bundle; None, or too few, give None.
    """
    if rates is None or rates.shortage or REASONS not in table.column_names:
        return None
    names = np.asarray(table["subject"].to_pylist(), dtype=object)
    calls = called.astype(object)
    calls[~answered(table)] = None
    fields = np.asarray(table["source_image"].to_pylist(), dtype=object)
    rows: list[PatientPercentage] = []
    for name in sorted({str(name) for name in names if name is not None}, key=natural):
        own = names == name
        counts = count_fields(calls[own], fields[own])
        number = int(counts[1].sum())
        found = blast_percentage(*counts, rates)
        rows.append(
            PatientPercentage(
                subject=name,
                cells=int(own.sum()),
                answered=number,
                true=100 * float(true[own].mean()),
                called=100 * float(counts[0].sum()) / number if number else None,
                value=found.value if found else None,
                low=found.low if found else None,
                high=found.high if found else None,
            )
        )
    if not rows:
        return None
    known = [row for row in rows if row["value"] is not None]
    return PatientPercentages(
        patients=rates.counts,
        held=sum((r["low"] or 0) - 1e-6 <= r["true"] <= (r["high"] or 0) + 1e-6 for r in known),
        estimated=len(known),
        mean_error=_mean([abs((row["value"] or 0) - row["true"]) for row in known]),
        mean_error_called=_mean([abs((row["called"] or 0) - row["true"]) for row in known]),
        subjects=rows,
    )


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
