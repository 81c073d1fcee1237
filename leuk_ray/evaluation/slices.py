"""Results of parts of the test cells, by what the dataset says of where they come from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from typing_extensions import TypedDict

from leuk_ray.datasets.layouts.catalogue import KEPT
from leuk_ray.evaluation.intervals import BoolArray, GroupResamples, Interval
from leuk_ray.evaluation.metrics import Ratio, ratio

_SLICED = ("site", "stain")


def sliced(names: Sequence[str]) -> list[str]:
    """Choose the columns by whose values results are counted: site, stain, and all kept ones."""
    return [name for name in names if name in _SLICED or name.startswith(KEPT)]


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
    """Count the cells classified correctly for each value of a column, where there are several.

    Args:
        test: predictions of the test cells; see `sliced` for the columns.
        right: (N,) whether each is classified correctly.
        withheld: a reason to give no interval.
        drawing: seed and number of resamples.
    """
    rows: list[Slice] = []
    for column in sliced(test.column_names):
        if len(test[column].unique()) < 2:
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
                    column=column.removeprefix(KEPT),
                    value=value,
                    cells=int(own.sum()),
                    groups=len(set(groups.tolist())),
                    accuracy=ratio(int(right[own].sum()), int(own.sum())),
                    interval=resampled.interval(samples),
                )
            )
    return rows
