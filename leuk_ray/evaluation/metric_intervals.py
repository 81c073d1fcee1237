"""Metrics of cells with their 95% intervals over groups: the binary view's, and over classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from leuk_ray.datasets.classes import ClassSet
from leuk_ray.evaluation.intervals import (
    MIN_GROUPS,
    BoolArray,
    FloatArray,
    GroupResamples,
    IntArray,
    Interval,
    checked_cells,
)
from leuk_ray.evaluation.multiclass import metrics_of_counts

CLASS_METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "kappa")
EACH_CLASS = ("balanced_accuracy", "macro_f1")  # rest on the groups of the rarest class


def group_intervals(
    label: npt.ArrayLike,
    probability: npt.ArrayLike,
    group: npt.ArrayLike,
    threshold: float,
    *,
    seed: int,
    resamples: int = 2000,
    withheld: str = "",
) -> dict[str, Interval]:
    """Compute 95% intervals over groups, left out whole and stratified by class.

    Args:
        label: (N,) 1 ALL, 0 healthy.
        probability: (N,) of ALL, 0..1.
        group: (N,) the group each cell belongs to.
        threshold: a cell is called ALL from this probability on.
        seed, resamples: of the resampling; see `GroupResamples.sample`.
        withheld: a reason to give no interval; see `GroupResamples.sample`.

    Returns:
        Intervals of `auc`, `accuracy`, `sensitivity`, `specificity` and `weighted_f1`; see
        `GroupResamples.interval`.

    Raises:
        ValueError: the cells are malformed, or `group` is not (N,).
    """
    labels, probabilities = checked_cells(label, probability)
    resampled = GroupResamples.sample(
        labels, group, seed=seed, resamples=resamples, withheld=withheld
    )
    samples = metric_samples(resampled, labels, probabilities, threshold)
    return {name: resampled.interval(values) for name, values in samples.items()}


def metric_samples(
    resampled: GroupResamples, label: IntArray, probability: FloatArray, threshold: float
) -> dict[str, FloatArray]:
    """Compute the area under ROC and the metrics of calls in each resample: (R,) values by name."""
    return {
        "auc": resampled.auc(label, probability),
        **count_samples(resampled, label, probability >= threshold),
    }


def count_samples(
    resampled: GroupResamples, label: IntArray, called: BoolArray
) -> dict[str, FloatArray]:
    """Compute metrics that need only counts of calls, in each resample: (R,) values by name."""
    truth = label == 1
    outcomes = (truth & called, ~truth & called, ~truth & ~called, truth & ~called)
    tp, fp, tn, fn = (resampled.sums(outcome) for outcome in outcomes)
    cells = tp + fp + tn + fn
    with np.errstate(invalid="ignore"):
        f1_all = 2 * tp / (2 * tp + fp + fn)
        f1_healthy = 2 * tn / (2 * tn + fn + fp)
        return {
            "accuracy": (tp + tn) / cells,
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "weighted_f1": ((tp + fn) * f1_all + (tn + fp) * f1_healthy) / cells,
        }


def class_resamples(
    label: IntArray, group: npt.ArrayLike, classes: ClassSet, *, withheld: str, **drawing: int
) -> GroupResamples:
    """Resample groups of two classes apart; of more, in which a group may hold several, together.

    Args:
        label: (N,) 0..K-1.
        group: (N,) the group each cell belongs to.
        classes: the K classes.
        withheld: a reason to give no interval; see `GroupResamples.sample`.
        drawing: seed and number of resamples.
    """
    if len(classes) == 2:
        names = classes.binary_names
        return GroupResamples.sample(label, group, withheld=withheld, names=names, **drawing)
    return GroupResamples.pooled(group, withheld=withheld, **drawing)


def class_samples(
    resampled: GroupResamples, label: IntArray, called: IntArray, classes: ClassSet
) -> dict[str, FloatArray]:
    """Compute the metrics of the confusion matrix in each resample: (R,) values by name."""
    num_classes = len(classes)
    pairs = num_classes**2
    if not len(resampled.weight):
        return dict.fromkeys(CLASS_METRICS, np.empty(0))
    place = resampled.member * pairs + label * num_classes + called
    counts = np.bincount(place, minlength=resampled.weight.shape[1] * pairs).reshape(-1, pairs)
    confusion = (resampled.weight @ counts).reshape(-1, num_classes, num_classes)
    found = metrics_of_counts(confusion, ordered=classes.ordered)
    return {name: found[name] for name in CLASS_METRICS}


def class_intervals(
    resampled: GroupResamples, label: IntArray, called: IntArray, classes: ClassSet
) -> dict[str, Interval]:
    """Compute 95% intervals of `CLASS_METRICS`; see `GroupResamples.interval`.

    Balanced accuracy and macro F1 rest on every class: their degrees of freedom are those of the
    class with cells in the fewest groups, and below 5 of these there is none.

    Args:
        resampled: of these cells.
        label, called: (N,) 0..K-1.
        classes: the K classes.
    """
    name, carriers = rarest(resampled, label, classes)
    refused = too_rare(resampled, name, carriers)
    out = {}
    for metric, samples in class_samples(resampled, label, called, classes).items():
        if refused is not None and metric in EACH_CLASS:
            out[metric] = refused
        elif metric == "kappa":  # in -1..1
            out[metric] = _stretched(resampled.interval((samples + 1) / 2))
        else:
            out[metric] = resampled.interval(samples, carriers if metric in EACH_CLASS else None)
    return out


def too_rare(resampled: GroupResamples, name: str, carriers: int) -> Interval | None:
    """Withhold the interval of what rests on every class where the rarest has too few groups."""
    if not len(resampled.weight) or carriers >= MIN_GROUPS:
        return None
    few = f"no interval: the cells of {name} are in {carriers} of {resampled.counted}"
    return Interval(None, None, None, None, 0, few)


def rarest(resampled: GroupResamples, label: IntArray, classes: ClassSet) -> tuple[str, int]:
    """Find the class, of those with cells, in the fewest groups, and in how many."""
    found = [
        (len(np.unique(resampled.member[label == number])), name)
        for number, name in enumerate(classes.names)
    ]
    groups, name = min((one for one in found if one[0]), default=(0, ""))
    return name, groups


def _stretched(interval: Interval) -> Interval:
    """From 0..1 to -1..1."""
    if interval.low is None or interval.high is None:
        return interval
    return replace(interval, low=2 * interval.low - 1, high=2 * interval.high - 1)
