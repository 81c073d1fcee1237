"""What prediction sets with a guarantee do on test cells: how often they hold the class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from leuk_ray.evaluation.conformal import Conformal
from leuk_ray.evaluation.intervals import BoolArray, FloatArray, GroupResamples, IntArray
from leuk_ray.evaluation.metrics import ratio


def measure_sets(
    conformal: Conformal,
    class_logits: FloatArray,
    label: IntArray,
    names: Sequence[str],
    resampled: GroupResamples,
) -> dict[str, Any]:
    """Measure coverage of prediction sets on test cells, and how many hold one class.

    Args:
        conformal: the sets of a bundle.
        class_logits: (N, K-1) of the test cells.
        label: (N,) 0..K-1.
        names: of the K classes.
        resampled: the groups of these cells.

    Returns:
        coverage (stated), caution (why it is approximate; empty where it is exact), and `patients`
        and `pooled` (limits that weigh patients, as deployed, and cells), each with answered (cells
        whose set holds one class), several, none, and classes: name, patients and cells of the
        calibration, attainable, log_odds (the limit), tested (groups with cells of the class),
        covered (cells whose set holds it) and value, interval: the mean over these groups of the
        share of their cells that is covered, which is what is stated.
    """
    out: dict[str, Any] = {"coverage": conformal.coverage, "caution": conformal.caution}
    ways = {
        "patients": conformal.sets(class_logits),
        "pooled": conformal.pooled_sets(class_logits),
    }
    for way, sets in ways.items():
        classes = []
        for number, (name, limit) in enumerate(zip(names, conformal.limits, strict=True)):
            classes.append(
                limit.model_dump(include={"patients", "cells", "attainable"})
                | {"name": name, "log_odds": limit.pooled if way == "pooled" else limit.log_odds}
                | _covered(sets[:, number], label == number, resampled)
            )
        out[way] = count_sizes(sets) | {"classes": classes}
    return out


def count_sizes(sets: BoolArray) -> dict[str, Any]:
    """Count prediction sets (N, K): answered ({value, numerator, denominator}), several, none."""
    size = sets.sum(axis=1)
    return {
        "answered": ratio(int((size == 1).sum()), len(size)),
        "several": int((size > 1).sum()),
        "none": int((size == 0).sum()),
    }


def _covered(inside: BoolArray, own: BoolArray, resampled: GroupResamples) -> dict[str, Any]:
    """Coverage of the cells of one class, each group weighing the same."""
    cells = np.bincount(resampled.member, own, minlength=sum(resampled.groups))
    held = np.bincount(resampled.member, own & inside, minlength=sum(resampled.groups))
    have = cells > 0
    shares, tested = held[have] / cells[have], int(have.sum())
    weight = resampled.weight[:, have]
    with np.errstate(invalid="ignore"):
        samples = weight @ shares / weight.sum(axis=1)
    return {
        "tested": tested,
        "covered": ratio(int(held.sum()), int(own.sum())),
        "value": float(shares.mean()) if tested else None,
        "interval": resampled.interval(samples, carriers=tested or None),
    }
