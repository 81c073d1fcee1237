"""Which cells two bundles can be compared on: what trained each, and what both keep for testing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leuk_ray.datasets.pairing import check_same_dataset
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.splits import eligible
from leuk_ray.io.locations import Location, join, parent
from leuk_ray.io.storage import exists, read_table
from leuk_ray.runs.seen import SeenCells
from leuk_ray.runs.target import EvaluationTarget, trained_on_images_of
from leuk_ray.utils.errors import DataError

_TRAINED = ("train", "validation")  # validation chose the epoch


@dataclass(frozen=True)
class Trained:
    """On what a bundle was trained: the run's split, and the protocol's name."""

    split: pa.Table
    protocol: str


def comparable_rows(dataset: PreparedDataset, known: Mapping[str, Trained]) -> np.ndarray:
    """Find the rows that all known splits test on, (N,) ascending; without any, all eligible.

    Args:
        dataset: of the rows.
        known: by name, what is known to have been trained on this dataset, and how.

    Raises:
        UserError: there is none, or a group of them trained or chose one of the bundles (under
            `official-folds` a picture, as its folds join no subjects that share one).
    """
    row_of = {uid: row for row, uid in enumerate(dataset.cells["uid"].to_pylist())}
    uids = set(eligible(dataset.cells)["uid"].to_pylist())
    if known:
        uids = set.intersection(*(_uids(one.split, ("test",)) for one in known.values()))
    if not uids:
        raise DataError(
            f"{' and '.join(known) or 'compare'}: {dataset.location} has no cell to compare on; "
            "train both with the same split settings, or give a dataset that trained neither"
        )
    rows = np.asarray(sorted(row_of[uid] for uid in uids), np.int64)
    for name, one in known.items():
        unit = "duplicate_id" if one.protocol == "official-folds" else "group"
        units = dataset.cells[unit].to_pylist()
        trained = {units[row_of[uid]] for uid in _uids(one.split, _TRAINED)}
        asked = {units[row] for row in rows.tolist()}
        if crossing := trained & asked:
            raise DataError(
                f"{name}: {len(crossing)} of the {len(asked)} {unit}s to compare on trained it or "
                "chose its epoch; compare on other patients"
            )
    return rows


def count_tested(known: list[Trained | None]) -> int | None:
    """Count the cells that the runs of one side keep for testing; None where that is not known."""
    splits = [one.split for one in known if one is not None]
    if len(splits) < len(known):
        return None
    return sum(len(_uids(split, ("test",))) for split in splits)


def tested_uids(target: EvaluationTarget, dataset: PreparedDataset) -> frozenset[str]:
    """Read the uids that a run keeps for testing."""
    split = _split(target, dataset)
    return frozenset(_uids(split, ("test",)))


def why_other(first: EvaluationTarget, second: EvaluationTarget) -> str:
    """Name the split settings in which two runs differ; empty where one is a bundle alone."""
    if not all(exists(join(_run_of(one), "config.yaml")) for one in (first, second)):
        return ""
    ours, theirs = (
        EvaluationTarget(one.bundle, _run_of(one)).config["split"] for one in (first, second)
    )
    differing = [key for key in ours if ours[key] != theirs.get(key)]
    return ", ".join(f"split.{key} {ours[key]} and {theirs.get(key)}" for key in differing)


def _uids(split: pa.Table, roles: tuple[str, ...]) -> set[str]:
    return set(split.filter(pc.field("role").isin(roles))["uid"].to_pylist())


def split_here(target: EvaluationTarget, dataset: PreparedDataset) -> pa.Table | None:
    """Read the split of a bundle that was made with cells of the dataset; None where it was not."""
    if trained_on_images_of(dataset, target.manifest) or not target.manifest.datasets:
        return _split(target, dataset)
    if target.lineage is None:
        return None
    seen = SeenCells(dataset.cells, target.lineage)
    return seen.split() if (seen.role >= 0).any() else None


def _split(target: EvaluationTarget, dataset: PreparedDataset) -> pa.Table:
    """Return the split of a bundle that the dataset trained: its run's, else its lineage's."""
    run = _run_of(target)
    split = join(run, "split.parquet")
    if target.lineage is not None and not exists(split):
        return SeenCells(dataset.cells, target.lineage).split()
    if target.manifest.datasets and not exists(split):
        raise DataError(
            f"{target.bundle}: was trained on cells of {dataset.location}, and without its run it "
            "is not known on which; give the run's folder"
        )
    advice = "compare on the dataset that trained it, or on other images"
    check_same_dataset(target.manifest.datasets, dataset, target.bundle, advice, split)
    return read_table(split)


def _run_of(target: EvaluationTarget) -> Location:
    return parent(target.bundle) if target.run is None else target.run
