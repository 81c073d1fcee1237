"""Two classifiers on the same cells: what one gains over the other, with an interval."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from leuk_ray.evaluation.intervals import FloatArray, GroupResamples, IntArray, checked_cells
from leuk_ray.evaluation.metric_intervals import metric_samples
from leuk_ray.evaluation.metrics import evaluate, losses

COMPARED = ("auc", "accuracy", "sensitivity", "specificity", "weighted_f1", "brier", "nll")


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
) -> dict[str, Any]:
    """Second minus first in every metric, with a 95% interval over groups.

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

    Returns:
        `metrics`: name -> {first, second, difference, low, high, p, note}, None where undefined;
        `cells`, `groups_positive`, `groups_negative`; `only_first`, `only_second`: cells that
        one calls right and the other does not.

    Raises:
        ValueError: the cells are malformed.
    """
    labels, before = checked_cells(label, first)
    _, after = checked_cells(label, second)
    resampled = GroupResamples.sample(
        labels, group, seed=seed, resamples=resamples, withheld=withheld
    )
    values = [
        evaluate(labels, stated, threshold)
        for stated, threshold in zip((before, after), thresholds, strict=True)
    ]
    samples = [
        _samples(resampled, labels, stated, threshold)
        for stated, threshold in zip((before, after), thresholds, strict=True)
    ]
    metrics = {}
    for name in COMPARED:
        old, new = (metrics[name]["value"] for metrics in values)
        change = samples[1][name] - samples[0][name]
        found = resampled.percentile_interval(change)
        metrics[name] = {
            "first": old,
            "second": new,
            "difference": None if old is None or new is None else new - old,
            "low": found.low,
            "high": found.high,
            "p": resampled.p_value(change) if found.low is not None else None,
            "note": found.note,
        }
    called = zip((before, after), thresholds, strict=True)
    right = [(stated >= threshold) == (labels == 1) for stated, threshold in called]
    return {
        "metrics": metrics,
        "cells": len(labels),
        "groups_positive": resampled.groups[0],
        "groups_negative": resampled.groups[1],
        "only_first": int((right[0] & ~right[1]).sum()),
        "only_second": int((right[1] & ~right[0]).sum()),
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
