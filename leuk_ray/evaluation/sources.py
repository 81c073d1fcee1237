"""Results by source, where there are several: whole fields and single cells apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leuk_ray.datasets.layouts.all_idb import FIELDS
from leuk_ray.evaluation.intervals import GroupResamples
from leuk_ray.evaluation.metric_intervals import metric_samples
from leuk_ray.evaluation.metrics import Confusion, evaluate


def by_source(
    test: pa.Table, threshold: float, withheld: str, names: tuple[str, str], **drawing: int
) -> list[dict[str, Any]]:
    """Evaluate the test cells of each source by themselves.

    Args:
        test: predictions; the column source may be missing, and its values null.
        threshold: a cell is called ALL from this probability on.
        withheld: a reason to give no interval.
        names: of the labels 0 and 1, for messages.
        drawing: seed and number of resamples.

    Returns:
        By source: source, title, metrics and intervals, as of all test cells; empty unless there
        are several sources.
    """
    if "source" not in test.column_names or len(test["source"].unique()) < 2:
        return []
    return [
        {"source": source, "title": _title(source)}
        | _evaluate(test.filter(_is(source)), threshold, withheld, names, **drawing)
        for source in sorted(test["source"].unique().to_pylist(), key=str)
    ]


def apart(parts: Sequence[Mapping[str, Any]]) -> str:
    """Say how many cells of each source are classified correctly; empty without parts."""
    said = []
    for part in parts:
        counts = Confusion(**part["metrics"]["confusion"])
        said.append(f"{part['title']} {counts.tp + counts.tn:,} of {counts.cells:,}")
    return f" By source: {', '.join(said)}." if said else ""


def _is(source: str | None) -> pc.Expression:
    return pc.field("source").is_null() if source is None else pc.field("source") == source


def _title(source: str | None) -> str:
    if source is None:
        return "source unknown"
    return f"{source} (fields of view)" if source == FIELDS else source


def _evaluate(
    cells: pa.Table, threshold: float, withheld: str, names: tuple[str, str], **drawing: int
) -> dict[str, Any]:
    label, stated = cells["label"].to_numpy().astype(np.int64), cells["probability"].to_numpy()
    group = cells["group"].to_pylist()
    resampled = GroupResamples.sample(label, group, withheld=withheld, names=names, **drawing)
    samples = metric_samples(resampled, label, stated, threshold)
    return {
        "metrics": evaluate(label, stated, threshold),
        "intervals": {name: resampled.interval(values) for name, values in samples.items()},
    }
