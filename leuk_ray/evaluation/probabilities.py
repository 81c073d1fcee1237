"""How well probabilities fit: intervals of Brier score, likelihood and calibration error."""

from __future__ import annotations

from typing import Any

import numpy as np

from leuk_ray.evaluation.calibration import fit_temperature, probability
from leuk_ray.evaluation.intervals import FloatArray, GroupResamples, IntArray, Interval
from leuk_ray.evaluation.metrics import ECE_BINS, brier, calibration_index, ece, losses, nll


def probability_intervals(
    resampled: GroupResamples, label: IntArray, stated: FloatArray
) -> dict[str, Interval]:
    """95% group-bootstrap intervals of `brier`, `nll` and `ece`.

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


def refit(
    validation: tuple[IntArray, FloatArray], test: tuple[IntArray, FloatArray], temperature: float
) -> dict[str, Any] | None:
    """What a temperature fitted on validation cells does to the test cells' probabilities.

    Args:
        validation, test: labels (N,) and uncalibrated log-odds (N,) of each.
        temperature: that the probabilities were stated with.

    Returns:
        temperature, cells (that it was fitted on), and brier, nll and ece of the test cells as
        `stated` and `refitted`; None unless validation holds both classes.
    """
    label, logit = validation
    if len(np.unique(label)) < 2 or not len(test[0]):
        return None
    fitted = fit_temperature(logit[:, None], label)
    temperatures = {"stated": temperature, "refitted": fitted}
    out: dict[str, Any] = {"temperature": fitted, "cells": len(label)}
    for name, used in temperatures.items():
        stated = probability(test[1], used)
        out[name] = {metric.__name__: metric(test[0], stated) for metric in (brier, nll, ece)}
    return out
