"""Results of parts of the test cells, by what the dataset says of where they come from."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from typing_extensions import TypedDict

from leuk_ray.evaluation.intervals import BoolArray, GroupResamples, Interval
from leuk_ray.evaluation.metrics import Ratio, ratio

SLICED = ("site", "stain")  # columns of predictions, where the dataset has them


class Slice(TypedDict):
    """Test cells that share a value of a column: how many are classified correctly.

    value: None where the dataset does not say. interval: of the share that is correct, over groups.
    """

    column: str
    value: str | None
    cells: int
    groups: int
    accuracy: Ratio
    interval: Interval


def slices(test: pa.Table, right: BoolArray, withheld: str, **drawing: int) -> list[Slice]:
    """Count the cells classified correctly for each value of SLICED, where there are several.

    Args:
        test: predictions of the test cells.
        right: (N,) whether each is classified correctly.
        withheld: a reason to give no interval.
        drawing: seed and number of resamples.
    """
    rows: list[Slice] = []
    for column in SLICED:
        if column not in test.column_names or len(test[column].unique()) < 2:
            continue
        values = test[column].to_pylist()
        for value in sorted(set(values), key=str):
            own = np.asarray([one == value for one in values], bool)
            groups = np.asarray(test["group"].to_pylist(), object)[own]
            resampled = GroupResamples.pooled(groups, withheld=withheld, **drawing)
            with np.errstate(invalid="ignore"):
                samples = resampled.sums(right[own]) / resampled.sums(np.ones(own.sum()))
            rows.append(
                Slice(
                    column=column,
                    value=value,
                    cells=int(own.sum()),
                    groups=len(set(groups.tolist())),
                    accuracy=ratio(int(right[own].sum()), int(own.sum())),
                    interval=resampled.interval(samples),
                )
            )
    return rows
