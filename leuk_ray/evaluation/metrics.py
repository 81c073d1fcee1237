"""Metrics of a two-class cell classifier. ALL is the positive class (1), healthy is 0.

A metric that would be 0/0 is None, never 0 or NaN, and every number travels with the counts
it rests on. "eq" numbers are those of saeed2022.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from typing_extensions import TypedDict

from leuk_ray.evaluation.intervals import FloatArray, IntArray, checked_cells

CLASSES = ("healthy", "ALL")
ECE_BINS = 15


class Ratio(TypedDict):
    """A share and what it is a share of; `value` is None when the denominator is 0."""

    value: float | None
    numerator: int | float  # pairs that tie count half
    denominator: int


class Score(TypedDict):
    """A number that is no ratio of counts, with the number of cells it was computed from."""

    value: float | None
    cells: int


class ClassMetrics(TypedDict):
    """One class against the rest; support is its number of cells."""

    precision: Ratio
    recall: Ratio
    f1: Ratio
    support: int


class Evaluation(TypedDict):
    """All metrics of one set of cells at one threshold."""

    cells: int
    threshold: float
    confusion: dict[str, int]
    accuracy: Ratio
    precision: Ratio
    sensitivity: Ratio
    specificity: Ratio
    f1: Ratio
    per_class: dict[str, ClassMetrics]
    auc: Ratio
    weighted_f1: Score
    macro_f1: Score
    balanced_accuracy: Score
    mcc: Score
    average_precision: Score
    brier: Score
    nll: Score
    ece: Score


@dataclass(frozen=True)
class Confusion:
    """Counts of cells; positive is ALL."""

    tp: int
    fp: int
    tn: int
    fn: int

    @property
    def positives(self) -> int:
        """Cells that are ALL."""
        return self.tp + self.fn

    @property
    def negatives(self) -> int:
        """Cells that are healthy."""
        return self.tn + self.fp

    @property
    def cells(self) -> int:
        """All cells."""
        return self.positives + self.negatives

    def flipped(self) -> Confusion:
        """Return the same cells with healthy as the positive class."""
        return Confusion(tp=self.tn, fp=self.fn, tn=self.tp, fn=self.fp)


def confusion(label: npt.ArrayLike, probability: npt.ArrayLike, threshold: float) -> Confusion:
    """Count cells by truth and call; a cell is called ALL when probability >= threshold.

    Args:
        label: (N,) 1 ALL, 0 healthy.
        probability: (N,) of ALL, 0..1.
        threshold: 0..1.

    Raises:
        ValueError: shapes differ, or a value is out of its range.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold {threshold} must lie in 0..1")
    labels, probabilities = checked_cells(label, probability)
    truth, called = labels == 1, probabilities >= threshold
    return Confusion(
        tp=int((truth & called).sum()),
        fp=int((~truth & called).sum()),
        tn=int((~truth & ~called).sum()),
        fn=int((truth & ~called).sum()),
    )


def accuracy(counts: Confusion) -> Ratio:
    """Compute the share of cells classified correctly, of all cells (eq 13)."""
    return ratio(counts.tp + counts.tn, counts.cells)


def precision(counts: Confusion) -> Ratio:
    """Compute the share of ALL cells among those called ALL (eq 14)."""
    return ratio(counts.tp, counts.tp + counts.fp)


def sensitivity(counts: Confusion) -> Ratio:
    """Compute the share of ALL cells found, of all ALL cells (eq 15); also called recall."""
    return ratio(counts.tp, counts.positives)


def specificity(counts: Confusion) -> Ratio:
    """Compute the share of healthy cells called healthy, of all healthy cells (eq 16)."""
    return ratio(counts.tn, counts.negatives)


def f1(counts: Confusion) -> Ratio:
    """Compute the harmonic mean of precision and sensitivity (eq 17), 2 TP / (2 TP + FP + FN)."""
    return ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)


def per_class(counts: Confusion) -> dict[str, ClassMetrics]:
    """Compute precision, recall and F1 of `ALL` and of `healthy`, each in the positive role."""
    return {
        name: ClassMetrics(
            precision=precision(own), recall=sensitivity(own), f1=f1(own), support=own.positives
        )
        for name, own in (("ALL", counts), ("healthy", counts.flipped()))
    }


def weighted_f1(counts: Confusion) -> float | None:
    """Compute F1 of both classes, weighted by their cells: C-NMC's metric. None without cells."""
    if not counts.cells:
        return None
    scored = ((f1(own)["value"], own.positives) for own in (counts, counts.flipped()))
    return sum(value * support for value, support in scored if value is not None) / counts.cells


def macro_f1(counts: Confusion) -> float | None:
    """Compute the mean of both classes' F1. None when a class neither occurs nor is called."""
    return _mean(f1(counts)["value"], f1(counts.flipped())["value"])


def balanced_accuracy(counts: Confusion) -> float | None:
    """Compute the mean of sensitivity and specificity. None unless both classes occur."""
    return _mean(sensitivity(counts)["value"], specificity(counts)["value"])


def mcc(counts: Confusion) -> float | None:
    """Compute the Matthews correlation of truth and call, -1..1. None when either never varies."""
    called_all, called_healthy = counts.tp + counts.fp, counts.tn + counts.fn
    product = counts.positives * counts.negatives * called_all * called_healthy
    if not product:
        return None
    return float((counts.tp * counts.tn - counts.fp * counts.fn) / product**0.5)


def brier(label: IntArray, probability: FloatArray) -> float | None:
    """Compute the mean squared error of the probability, 0..1 (Brier 1950). None without cells."""
    return float(np.mean((probability - label) ** 2)) if label.size else None


def losses(label: IntArray, probability: FloatArray) -> FloatArray:
    """Compute the negative log-likelihood of each cell in nats, (N,).

    Probabilities are clipped one float64 step from 0 and 1.
    """
    step = np.finfo(np.float64).eps
    truth = np.clip(np.where(label == 1, probability, 1 - probability), step, 1 - step)
    return -np.log(truth)


def nll(label: IntArray, probability: FloatArray) -> float | None:
    """Compute the mean negative log-likelihood in nats; see `losses`. None without cells."""
    return float(losses(label, probability).mean()) if label.size else None


def calibration_index(probability: FloatArray) -> IntArray:
    """Find which of 15 bins each cell belongs to, (N,): of equal counts, cut at quantiles.

    Equal probabilities share a bin, so bins may differ in size, and some be empty.
    """
    edges = (
        np.percentile(probability, 100 * np.linspace(0, 1, ECE_BINS + 1))
        if probability.size
        else []
    )
    return np.searchsorted(edges[1:-1], probability).astype(np.int64)


def calibration_bins(
    label: IntArray, probability: FloatArray
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Count cells in each of 15 bins of equal counts of the probability of ALL.

    Returns:
        Cells, mean probability and observed share of ALL in each bin, (15,) each; the two means
        are 0 in an empty bin.
    """
    index = calibration_index(probability)
    cells = np.bincount(index, minlength=ECE_BINS)
    filled = np.maximum(cells, 1)
    mean_probability = np.bincount(index, probability, minlength=ECE_BINS) / filled
    observed = np.bincount(index, label, minlength=ECE_BINS) / filled
    return cells, mean_probability, observed


def ece(label: IntArray, probability: FloatArray) -> float | None:
    """Compute the expected calibration error of the probability of ALL, 0..1. None without cells.

    The mean over cells of |observed share of ALL - mean probability| in their bin (Naeini et al.
    2015), on the positive class's probability rather than on the confidence in the called class.
    Bins hold equal counts: with bins of equal width a sure network has nearly all cells in two.
    Few cells a bin make it large by chance alone, also where probabilities are right.
    """
    if not label.size:
        return None
    cells, mean_probability, observed = calibration_bins(label, probability)
    return float((cells * np.abs(observed - mean_probability)).sum() / label.size)


def evaluate(label: npt.ArrayLike, probability: npt.ArrayLike, threshold: float) -> Evaluation:
    """Compute every metric of one set of cells, each with its counts.

    `auc` counts pairs: those of an ALL and a healthy cell ranked right, ties half, of all pairs.
    It and `average_precision` are None unless both classes occur.

    Args:
        label: (N,) 1 ALL, 0 healthy; N may be 0.
        probability: (N,) of ALL, 0..1.
        threshold: a cell is called ALL from this probability on.

    Raises:
        ValueError: shapes differ, or a value is out of its range.
    """
    counts = confusion(label, probability, threshold)
    labels, probabilities = checked_cells(label, probability)
    area, average_precision = _ranking(labels, probabilities)
    pairs = counts.positives * counts.negatives

    def score(value: float | None) -> Score:
        return Score(value=value, cells=counts.cells)

    return Evaluation(
        cells=counts.cells,
        threshold=threshold,
        confusion=asdict(counts),
        accuracy=accuracy(counts),
        precision=precision(counts),
        sensitivity=sensitivity(counts),
        specificity=specificity(counts),
        f1=f1(counts),
        per_class=per_class(counts),
        auc=Ratio(value=area, numerator=round((area or 0) * pairs * 2) / 2, denominator=pairs),
        weighted_f1=score(weighted_f1(counts)),
        macro_f1=score(macro_f1(counts)),
        balanced_accuracy=score(balanced_accuracy(counts)),
        mcc=score(mcc(counts)),
        average_precision=score(average_precision),
        brier=score(brier(labels, probabilities)),
        nll=score(nll(labels, probabilities)),
        ece=score(ece(labels, probabilities)),
    )


def ratio(numerator: int, denominator: int) -> Ratio:
    """Divide a share, with its counts; of nothing it is None."""
    value = numerator / denominator if denominator else None
    return Ratio(value=value, numerator=numerator, denominator=denominator)


def _mean(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else (first + second) / 2


def _ranking(label: IntArray, probability: FloatArray) -> tuple[float | None, float | None]:
    """Area under the ROC curve and average precision; None unless both classes occur."""
    if np.unique(label).size < 2:
        return None, None
    # Imported here: scikit-learn takes a second to load, the counts need none of it.
    from sklearn.metrics import average_precision_score, roc_auc_score

    return (
        float(roc_auc_score(label, probability)),
        float(average_precision_score(label, probability)),
    )
