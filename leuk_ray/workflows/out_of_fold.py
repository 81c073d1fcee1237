"""The pooled out-of-fold scores that a cross-validation's folder holds."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.evaluation.decided import FOLD
from leuk_ray.io.locations import Location
from leuk_ray.io.storage import exists, read_table
from leuk_ray.training.record import check_started_on
from leuk_ray.utils.errors import DataError


def is_crossval(place: Location) -> bool:
    """Say whether a folder is that of a cross-validation."""
    return isinstance(place, Path) and exists(place / "crossval.yaml")


def require_crossval(place: Location) -> None:
    """Raise a DataError where a folder is not that of a cross-validation."""
    if not is_crossval(place):
        raise DataError(
            f"{place}: is no folder of a cross-validation (no crossval.yaml); make one with "
            "`leuk-ray crossval`"
        )


def out_of_fold(place: Path, dataset: PreparedDataset) -> pa.Table:
    """Read a cross-validation's pooled scores: one row a cell, sorted by uid, with its fold.

    Raises:
        UserError: it has no report, or one without folds, or was started on another dataset.
    """
    check_started_on(dataset, place)
    table = place / "report" / "predictions.parquet"
    again = "run the same `leuk-ray crossval` with --resume"
    if not exists(table):
        raise DataError(f"{place}: has no report yet; {again}")
    scores = read_table(table)
    if FOLD not in scores.column_names:
        raise DataError(f"{place}: was reported by an older leuk_ray, without folds; {again}")
    return scores.filter(pc.field("role") == "test").sort_by("uid")


def require_same_folds(places: tuple[Location, Location], tables: list[pa.Table]) -> None:
    """Raise a DataError unless two cross-validations test the same cells in the same folds."""
    first, second = (
        dict(zip(table["uid"].to_pylist(), table[FOLD].to_pylist(), strict=True))
        for table in tables
    )
    if other := sum(first.get(uid) != second.get(uid) for uid in first | second):
        raise DataError(
            f"{places[0]} and {places[1]}: {other} of {len(first | second)} cells are in other "
            "folds; cross-validate both with the same --folds, --protocol and split settings"
        )
