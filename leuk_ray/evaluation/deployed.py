"""What a bundle does as it is deployed: which cells it answers for, and how often rightly."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from leuk_ray.evaluation.intervals import BoolArray, GroupResamples

REASONS = "reasons"  # the column of predictions: why a cell gets no answer, empty where it gets one


def answered(table: pa.Table) -> BoolArray:
    """(N,) whether a cell gets an answer, of predictions with the column `reasons`."""
    return np.asarray([not reasons for reasons in table[REASONS].to_pylist()], bool)


def as_deployed(
    table: pa.Table, right: BoolArray, positive: BoolArray | None, resampled: GroupResamples
) -> dict[str, Any] | None:
    """Count the answers on test cells, and those that are right, with intervals over groups.

    Args:
        table: predictions of the test cells.
        right: (N,) whether each is classified correctly.
        positive: (N,) of two classes, whether each is of the positive one; of more None.
        resampled: the groups of these cells.

    Returns:
        answered and accuracy and, of two classes, sensitivity and specificity of the answers
        ({value, numerator, denominator}), intervals of these by name, reasons (cells by reason;
        one may have several). None without test cells or the column `reasons`.
    """
    if not len(table) or REASONS not in table.column_names:
        return None
    given = answered(table)
    parts = {
        "answered": (given, np.ones(len(table), bool)),
        "accuracy": (right & given, given),
    }
    if positive is not None:
        parts["sensitivity"] = (right & given & positive, given & positive)
        parts["specificity"] = (right & given & ~positive, given & ~positive)
    out: dict[str, Any] = {"intervals": {}}
    for name, (hit, of) in parts.items():
        numerator, denominator = int(hit.sum()), int(of.sum())
        value = numerator / denominator if denominator else None
        out[name] = {"value": value, "numerator": numerator, "denominator": denominator}
        with np.errstate(invalid="ignore", divide="ignore"):
            samples = resampled.sums(hit) / resampled.sums(of)
        out["intervals"][name] = resampled.interval(samples)
    counts = Counter(reason for reasons in table[REASONS].to_pylist() for reason in reasons)
    return out | {"reasons": dict(sorted(counts.items()))}
