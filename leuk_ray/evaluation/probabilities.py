"""How well probabilities fit: intervals of Brier score, likelihood and calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from leuk_ray.evaluation.calibration import fit_temperature, probability
from leuk_ray.evaluation.intervals import (
    BoolArray,
    FloatArray,
    GroupResamples,
    IntArray,
    Interval,
)
from leuk_ray.evaluation.metrics import ECE_BINS, brier, calibration_index, ece, losses, nll


def probability_intervals(
    resampled: GroupResamples, label: IntArray, stated: FloatArray
) -> dict[str, Interval]:
    """Compute 95% group-bootstrap intervals of `brier`, `nll` and `ece`.

    The bins of the calibration error stay those of the cells. It leans high, in a resample even
    more than in the cells, so its interval is the reflected one: twice the estimate less the
    quantiles, from 0 on. It held the true error in 74% (of calibrated scores) and 93% (of scores
    stretched by 2) of 400 simulated trials with 22 + 44 groups; plain quantiles held it in none
    and 96%.

    Args:
        resampled: groups resampled for these cells.
        label: (N,) 1 ALL, 0 healthy.
        stated: (N,) probability of ALL, 0..1.
    """
    cells = resampled.sums(np.ones(len(label)))
    index = calibration_index(stated)
    gaps = [np.abs(resampled.sums((label - stated) * (index == n))) for n in range(ECE_BINS)]
    reflected = 2 * (ece(label, stated) or 0) - np.sum(gaps, axis=0) / cells
    return {
        "brier": resampled.percentile_interval(resampled.sums((stated - label) ** 2) / cells),
        "nll": resampled.percentile_interval(resampled.sums(losses(label, stated)) / cells),
        "ece": resampled.percentile_interval(np.maximum(0, reflected)),
    }


def fit_temperatures(
    class_logits: FloatArray,
    label: IntArray,
    num_test: int,
    parts: Sequence[tuple[BoolArray, BoolArray]],
) -> FloatArray | None:
    """Fit the temperature for each test cell, (num_test,), on the validation cells of its part.

    None without test cells, or where the validation cells of a part are of one class.
    """
    out = np.empty(num_test)
    for fixing, own in parts:
        if len(np.unique(label[fixing])) < 2:
            return None
        out[own] = fit_temperature(class_logits[fixing], label[fixing])
    return out if num_test else None


def refit(
    validation: tuple[IntArray, FloatArray],
    test: tuple[IntArray, FloatArray],
    temperature: float,
    parts: Sequence[tuple[BoolArray, BoolArray]],
) -> dict[str, Any] | None:
    """Measure what a temperature fitted on validation cells does to test cells' probabilities.

    Args:
        validation, test: labels (N,) and uncalibrated log-odds (N,) of each.
        temperature: that the probabilities were stated with.
        parts: see `decided.parts_of`.

    Returns:
        temperature (None where it differs by fold), cells (that it was fitted on), and
        brier, nll and ece of the test cells as `stated` and `refitted`; None unless
        validation holds both classes, in every fold.
    """
    label, logit = validation
    fitted = fit_temperatures(logit[:, None], label, len(test[0]), parts)
    if fitted is None:
        return None
    alone = float(fitted[0]) if len(parts) == 1 else None
    out: dict[str, Any] = {"temperature": alone, "cells": len(label)}
    for name, used in {"stated": temperature, "refitted": fitted}.items():
        stated = probability(test[1] / used, 1.0)
        out[name] = {metric.__name__: metric(test[0], stated) for metric in (brier, nll, ece)}
    return out
