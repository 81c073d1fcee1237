"""Predictive values at prevalences that are stated, as a test set seldom has that of practice."""

from __future__ import annotations

import numpy as np
from typing_extensions import TypedDict

from leuk_ray.evaluation.intervals import BoolArray, FloatArray, GroupResamples, IntArray, Interval
from leuk_ray.evaluation.metric_intervals import count_samples
from leuk_ray.evaluation.metrics import confusion, sensitivity, specificity

PREVALENCES = (0.05, 0.20, 0.50)


class PredictiveValues(TypedDict):
    """Positive and negative predictive value of a cell's call, were a share of all cells positive.

    None where a class has no test cells, or where no cell would be called so.
    """

    prevalence: float
    ppv: float | None
    npv: float | None
    ppv_interval: Interval
    npv_interval: Interval


def predictive_values(
    label: IntArray, called: BoolArray, resampled: GroupResamples
) -> list[PredictiveValues]:
    """Compute predictive values at each of PREVALENCES, by Bayes' rule.

    They hold where cells of either class look as in the test set and are only more or less
    frequent.

    Args:
        label: (N,) 1 positive, 0 not. called: (N,) whether each is called positive.
        resampled: the groups of these cells.
    """
    counts = confusion(label, called.astype(float), 0.5)
    found, less = sensitivity(counts)["value"], specificity(counts)["value"]
    samples = count_samples(resampled, label, called)
    rows = []
    for prevalence in PREVALENCES:
        every = _bayes(samples["sensitivity"], samples["specificity"], prevalence)
        alone = (None, None)
        if found is not None and less is not None:
            alone = tuple(
                float(value[0]) if np.isfinite(value[0]) else None
                for value in _bayes(np.array([found]), np.array([less]), prevalence)
            )
        rows.append(
            PredictiveValues(
                prevalence=prevalence,
                ppv=alone[0],
                npv=alone[1],
                ppv_interval=resampled.interval(every[0]),
                npv_interval=resampled.interval(every[1]),
            )
        )
    return rows


def _bayes(found: FloatArray, less: FloatArray, prevalence: float) -> tuple[FloatArray, FloatArray]:
    """Positive and negative predictive value from sensitivity and specificity."""
    hit, missed = found * prevalence, (1 - found) * prevalence
    alarm, cleared = (1 - less) * (1 - prevalence), less * (1 - prevalence)
    with np.errstate(invalid="ignore", divide="ignore"):
        return hit / (hit + alarm), cleared / (cleared + missed)
