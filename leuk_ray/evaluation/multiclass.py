"""Metrics of a classifier of two or more classes, each with its counts.

Every metric follows scikit-learn's definition of the same name. One that is undefined, as the
recall of a class without cells, is None.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from typing_extensions import TypedDict

from leuk_ray.datasets.classes import ClassSet
from leuk_ray.evaluation.intervals import FloatArray, IntArray
from leuk_ray.evaluation.metrics import Ratio, Score, ece, ratio

TOP_K = 3
_TOP_K_FROM = 6  # classes: of five, three are most of them


class ClassScores(TypedDict):
    """One class against the rest; support: its cells. auc counts pairs, ties half."""

    support: int
    called: int
    precision: Ratio
    recall: Ratio
    f1: Ratio
    auc: Ratio


class MeanScore(Score):
    """A mean over classes, and how many of them it could be computed for."""

    classes: int


class ClassEvaluation(TypedDict):
    """All metrics of one set of cells over K classes.

    confusion: (K, K) cells, by true class, then by called class.
    balanced_accuracy: mean recall of the classes that have cells; macro_f1: mean F1 of those that
        have cells or are called; macro_auc: mean of the areas that exist. None unless two do.
    weighted_f1: mean F1, weighted by cells. kappa: Cohen's, with quadratic weights where the
        classes are ordered. top_k: the class is among the TOP_K most probable; None up to 5
        classes. brier: sum over classes of squared differences, 0..2.
    top_label_ece: of the largest probability as the chance of being right. classwise_ece: mean
        over classes of the calibration error of their probability (Kull et al. 2019).
    """

    cells: int
    confusion: list[list[int]]
    per_class: dict[str, ClassScores]
    accuracy: Ratio
    balanced_accuracy: MeanScore
    macro_f1: MeanScore
    weighted_f1: Score
    macro_auc: MeanScore
    kappa: Score
    top_k: Ratio | None
    nll: Score
    brier: Score
    top_label_ece: Score
    classwise_ece: Score


def confusion_matrix(label: npt.ArrayLike, called: npt.ArrayLike, num_classes: int) -> IntArray:
    """Count cells by true and called class, (K, K).

    Args:
        label, called: (N,) 0..K-1.
        num_classes: K.

    Raises:
        ValueError: shapes differ, or a value is not in 0..K-1.
    """
    labels, calls = np.asarray(label, np.int64), np.asarray(called, np.int64)
    if labels.ndim != 1 or labels.shape != calls.shape:
        raise ValueError(f"label {labels.shape} and called {calls.shape} must both be (N,)")
    for values in (labels, calls):
        if ((values < 0) | (values >= num_classes)).any():
            raise ValueError(f"labels and calls must lie in 0..{num_classes - 1}")
    pairs = np.bincount(labels * num_classes + calls, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)


def metrics_of_counts(
    confusion: npt.NDArray[np.generic], *, ordered: bool = False
) -> dict[str, FloatArray]:
    """Compute metrics of many confusion matrices at once, NaN where undefined.

    Args:
        confusion: (..., K, K) cells or weights, by true class, then by called class.
        ordered: whether classes are ordered: kappa is then quadratic.

    Returns:
        accuracy, balanced_accuracy, macro_f1, weighted_f1 and kappa, each (...).
    """
    counts = np.asarray(confusion, np.float64)
    truth, called = counts.sum(axis=-1), counts.sum(axis=-2)
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    cells = truth.sum(axis=-1)
    distance = np.subtract.outer(np.arange(counts.shape[-1]), np.arange(counts.shape[-1]))
    cost = (distance**2 if ordered else distance != 0).astype(np.float64)
    expected = (truth @ cost * called).sum(axis=-1)
    seen = (counts * cost).sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, f1 = right / truth, 2 * right / (truth + called)
        return {
            "accuracy": right.sum(axis=-1) / cells,
            "balanced_accuracy": mean_of_known(recall),
            "macro_f1": mean_of_known(f1),
            "weighted_f1": np.where(truth > 0, truth * f1, 0).sum(axis=-1) / cells,
            "kappa": 1 - seen * cells / expected,
        }


def evaluate_classes(
    label: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    called: npt.ArrayLike,
    classes: ClassSet,
) -> ClassEvaluation:
    """Compute every metric of one set of cells, each with its counts.

    Args:
        label: (N,) 0..K-1; N may be 0.
        probabilities: (N, K), each row of sum 1.
        called: (N,) the class that each cell is called, 0..K-1.
        classes: the K classes.

    Raises:
        ValueError: shapes differ, or a value is out of its range.
    """
    num_classes = len(classes)
    stated = np.asarray(probabilities, np.float64)
    counts = confusion_matrix(label, called, num_classes)
    labels = np.asarray(label, np.int64)
    if stated.shape != (labels.size, num_classes):
        raise ValueError(f"probabilities {stated.shape} must be ({labels.size}, {num_classes})")
    if not ((stated >= 0) & (stated <= 1)).all():
        raise ValueError("a probability must lie in 0..1")
    per_class = {
        name: _one_class(counts, number, labels, stated[:, number])
        for number, name in enumerate(classes.names)
    }
    found = metrics_of_counts(counts, ordered=classes.ordered)

    def score(value: float | None) -> Score:
        known = value is not None and np.isfinite(value)
        return Score(value=value if known else None, cells=labels.size)

    def mean(values: Sequence[float | None]) -> MeanScore:
        known = [one for one in values if one is not None]
        if len(known) < 2:
            return MeanScore(value=None, cells=labels.size, classes=len(known))
        return MeanScore(value=float(np.mean(known)), cells=labels.size, classes=len(known))

    recalls, f1s, areas = (
        [own[key]["value"] for own in per_class.values()] for key in ("recall", "f1", "auc")
    )
    return ClassEvaluation(
        cells=labels.size,
        confusion=counts.tolist(),
        per_class=per_class,
        accuracy=ratio(int(np.trace(counts)), labels.size),
        balanced_accuracy=mean(recalls),
        macro_f1=mean(f1s),
        weighted_f1=score(float(found["weighted_f1"])),
        macro_auc=mean(areas),
        kappa=score(float(found["kappa"])),
        top_k=ratio(_in_top(labels, stated), labels.size) if num_classes >= _TOP_K_FROM else None,
        nll=score(float(class_losses(labels, stated).mean()) if labels.size else None),
        brier=score(float(brier_terms(labels, stated).mean()) if labels.size else None),
        top_label_ece=score(
            ece((stated.argmax(axis=1) == labels).astype(np.int64), stated.max(axis=1))
            if labels.size
            else None
        ),
        classwise_ece=score(_classwise_ece(labels, stated) if labels.size else None),
    )


def class_losses(label: IntArray, probabilities: FloatArray) -> FloatArray:
    """Compute each negative log-likelihood in nats, (N,); clipped as in `metrics.losses`."""
    step = np.finfo(np.float64).eps
    own = np.take_along_axis(probabilities, label[:, None], axis=1)[:, 0]
    return -np.log(np.clip(own, step, 1 - step))


def brier_terms(label: IntArray, probabilities: FloatArray) -> FloatArray:
    """Compute each cell's squared distance to its class, (N,) in 0..2 (Brier 1950)."""
    truth = np.eye(probabilities.shape[1])[label]
    return ((probabilities - truth) ** 2).sum(axis=1)


def _one_class(
    counts: IntArray, number: int, label: IntArray, probability: FloatArray
) -> ClassScores:
    truth, called = int(counts[number].sum()), int(counts[:, number].sum())
    right, rest = int(counts[number, number]), label.size - truth
    area = None
    if truth and rest:
        from sklearn.metrics import roc_auc_score

        area = float(roc_auc_score(label == number, probability))
    pairs = truth * rest
    return ClassScores(
        support=truth,
        called=called,
        precision=ratio(right, called),
        recall=ratio(right, truth),
        f1=ratio(2 * right, truth + called),
        auc=Ratio(value=area, numerator=round((area or 0) * pairs * 2) / 2, denominator=pairs),
    )


def _in_top(label: IntArray, probabilities: FloatArray) -> int:
    """Cells whose class is among the TOP_K most probable; of equal ones, the first come first."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP_K]
    return int((best == label[:, None]).any(axis=1).sum())


def _classwise_ece(label: IntArray, probabilities: FloatArray) -> float:
    errors = [
        ece((label == number).astype(np.int64), probabilities[:, number]) or 0.0
        for number in range(probabilities.shape[1])
    ]
    return float(np.mean(errors))


def mean_of_known(values: FloatArray) -> FloatArray:
    """Compute the mean over the last axis of what is not NaN; NaN unless two values are."""
    known = ~np.isnan(values)
    number = known.sum(axis=-1)
    return np.where(number >= 2, np.where(known, values, 0).sum(axis=-1) / number, np.nan)
