"""Means over repeats: seeds, or re-splits of one dataset."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from scipy.stats import t as student

CONFIDENCE = 0.95


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Compute the 95% t interval of a mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = statistics.mean(values)
    half = (
        float(student.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
        * statistics.stdev(values)
        / len(values) ** 0.5
    )
    return mean - half, mean + half
