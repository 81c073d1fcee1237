"""Two classifiers on the same cells: what one gains over the other, with an interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from leuk_ray.datasets.classes import ClassSet
from leuk_ray.evaluation.class_report import ClassCells
from leuk_ray.evaluation.intervals import FloatArray, GroupResamples, IntArray, checked_cells
from leuk_ray.evaluation.metric_intervals import (
    EACH_CLASS,
    class_resamples,
    class_samples,
    metric_samples,
    rarest,
    too_rare,
)
from leuk_ray.evaluation.metrics import evaluate, losses
from leuk_ray.evaluation.multiclass import brier_terms, class_losses, mean_of_known

COMPARED = ("auc", "accuracy", "sensitivity", "specificity", "weighted_f1", "brier", "nll")
COMPARED_CLASSES = (
    "accuracy", "balanced_accuracy", "macro_f1", "kappa", "macro_auc", "brier", "nll"
)  # fmt: skip


def paired_bootstrap(
    label: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    group: npt.ArrayLike,
    thresholds: tuple[float, float] = (0.5, 0.5),
    *,
    seed: int,
    resamples: int = 2000,
    withheld: str = "",
    names: tuple[str, str] = ("healthy", "ALL"),
) -> dict[str, Any]:
    """Compare two classifiers: second minus first in every metric, with a 95% interval over groups.

    Both see the same resamples of whole groups, so what is hard for both cancels out. `p` is
    two-sided, see `GroupResamples.p_value`: one test a metric, not corrected for there being
    several.

    Args:
        label: (N,) 1 ALL, 0 healthy.
        first, second: (N,) each, probabilities of ALL, 0..1.
        group: (N,) the group each cell belongs to.
        thresholds: of the first and of the second.
        seed, resamples: of the resampling.
        withheld: a reason to give no interval; see `GroupResamples.sample`.
        names: of the labels 0 and 1, for messages.

    Returns:
        `metrics`: name -> {first, second, difference, low, high, p, note}, None where undefined;
        `cells`; `groups`, counted in words; `both_correct`, `only_first`, `only_second`,
        `neither`: cells classified correctly by both, by one of them alone, by none.

    Raises:
        ValueError: the cells are malformed.
    """
    labels, before = checked_cells(label, first)
    _, after = checked_cells(label, second)
    resampled = GroupResamples.sample(
        labels, group, seed=seed, resamples=resamples, withheld=withheld, names=names
    )
    sides = tuple(zip((before, after), thresholds, strict=True))
    values = [evaluate(labels, stated, threshold) for stated, threshold in sides]
    samples = [_samples(resampled, labels, stated, threshold) for stated, threshold in sides]
    right = [(stated >= threshold) == (labels == 1) for stated, threshold in sides]
    return {
        "metrics": {
            name: _difference(
                resampled, [side[name]["value"] for side in values], [s[name] for s in samples]
            )
            for name in COMPARED
        },
        **_counts(resampled, right),
    }


def paired_classes(
    first: ClassCells,
    second: ClassCells,
    classes: ClassSet,
    *,
    seed: int,
    resamples: int = 2000,
    withheld: str = "",
) -> dict[str, Any]:
    """Compare two classifiers of more than two classes as `paired_bootstrap` does.

    The intervals of what rests on every class have the degrees of freedom of the class with cells
    in the fewest groups; see `metric_intervals.class_intervals`.

    Args:
        first, second: the same cells, scored by each.
        classes: the K classes.
        seed, resamples: of the resampling.
        withheld: a reason to give no interval; see `GroupResamples.sample`.

    Returns:
        As `paired_bootstrap`; `metrics` has `COMPARED_CLASSES`.
    """
    label, sides = first.label, (first, second)
    group = first.table["group"].to_pylist()
    resampled = class_resamples(
        label, group, classes, withheld=withheld, seed=seed, resamples=resamples
    )
    values = [side.evaluate(classes) for side in sides]
    samples = [_class_samples(resampled, side, classes) for side in sides]
    name, carriers = rarest(resampled, label, classes)
    metrics = {
        metric: _difference(
            resampled,
            [side[metric]["value"] for side in values],
            [side[metric] for side in samples],
            (name, carriers) if metric in (*EACH_CLASS, "macro_auc") else None,
        )
        for metric in COMPARED_CLASSES
    }
    right = [side.called == label for side in sides]
    return {"metrics": metrics, **_counts(resampled, right)}


def _difference(
    resampled: GroupResamples,
    values: list[float | None],
    samples: list[FloatArray],
    rare: tuple[str, int] | None = None,
) -> dict[str, Any]:
    """Second minus first in one metric, with its interval; `rare`: see `rarest`."""
    old, new = values
    change = samples[1] - samples[0]
    carriers = rare[1] if rare else None
    found = too_rare(resampled, *rare) if rare else None
    if found is None:
        found = resampled.percentile_interval(change, carriers)
    return {
        "first": old,
        "second": new,
        "difference": None if old is None or new is None else new - old,
        "low": found.low,
        "high": found.high,
        "p": resampled.p_value(change, carriers) if found.low is not None else None,
        "note": found.note,
    }


def _counts(resampled: GroupResamples, right: list[npt.NDArray[np.bool_]]) -> dict[str, Any]:
    first, second = right
    return {
        "cells": len(first),
        "groups": resampled.counted,
        "both_correct": int((first & second).sum()),
        "only_first": int((first & ~second).sum()),
        "only_second": int((second & ~first).sum()),
        "neither": int((~first & ~second).sum()),
    }


def _samples(
    resampled: GroupResamples, label: IntArray, stated: FloatArray, threshold: float
) -> dict[str, FloatArray]:
    cells = resampled.sums(np.ones(len(label)))
    return {
        **metric_samples(resampled, label, stated, threshold),
        "brier": resampled.sums((stated - label) ** 2) / cells,
        "nll": resampled.sums(losses(label, stated)) / cells,
    }


def _class_samples(
    resampled: GroupResamples, scored: ClassCells, classes: ClassSet
) -> Mapping[str, FloatArray]:
    label, stated = scored.label, scored.probabilities
    cells = resampled.sums(np.ones(len(label)))
    areas = [
        resampled.auc((label == number).astype(np.int64), stated[:, number])
        for number in range(len(classes))
    ]
    return {
        **class_samples(resampled, label, scored.called, classes),
        "macro_auc": mean_of_known(np.stack(areas, axis=-1)),
        "brier": resampled.sums(brier_terms(label, stated)) / cells,
        "nll": resampled.sums(class_losses(label, stated)) / cells,
    }
