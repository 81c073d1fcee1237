"""The report of scored rows, and what it repeats of run, dataset and audit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from leuk_ray.bundles.bundle import derive_bundle, open_bundle
from leuk_ray.bundles.model_card import results_of
from leuk_ray.datasets.audit import known_audit
from leuk_ray.datasets.classes import ClassSet
from leuk_ray.datasets.pairing import check_same_dataset
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.splits import (
    eligible,
)
from leuk_ray.evaluation.calibration import binary_log_odds, binary_probability
from leuk_ray.evaluation.deployed import REASONS
from leuk_ray.evaluation.formats import decimal
from leuk_ray.evaluation.report import write_report
from leuk_ray.evaluation.report_model import Report
from leuk_ray.evaluation.slices import sliced
from leuk_ray.io.locations import Location, join
from leuk_ray.io.storage import read_table
from leuk_ray.runs.seen import SeenCells
from leuk_ray.runs.target import EvaluationTarget, report_context
from leuk_ray.utils.errors import DataError
from leuk_ray.utils.progress import bar, note
from leuk_ray.utils.wording import counted


def report_on(
    target: EvaluationTarget,
    dataset: PreparedDataset,
    split: pa.Table,
    rows: np.ndarray,
    class_logits: np.ndarray,
    out: Location,
    *,
    copies: np.ndarray | None = None,
    reasons: pa.ChunkedArray | None = None,
    show_images: bool = True,
) -> Report:
    """Report on scored rows: predictions.parquet and the report in the folder `out`.

    Args:
        target, dataset, out, show_images: see `workflows.evaluate.evaluate`.
        split: of the run, or as `split_of` gives it.
        rows: (N,) dataset rows, in the order of the split.
        class_logits: (N, K-1) of them.
        copies: (N,) under `paper-literal`, which copy of the row was scored.
        reasons: (N,) of a calibrated bundle, why it gives no answer for the row.
    """
    manifest = target.manifest
    predictions = predictions_table(
        dataset, split, rows, class_logits, manifest.temperature, copies
    )
    if reasons is not None:
        predictions = predictions.append_column(REASONS, reasons)
    uids = predictions["uid"].to_pylist()
    row_of = dict(zip(uids, rows.tolist(), strict=True))
    reader = dataset.reader()

    def pictures(uids: list[str]) -> list[np.ndarray]:
        return list(reader.read(np.asarray([row_of[uid] for uid in uids], np.int64)))

    note("report: drawing figures")
    return write_report(
        out,
        run=report_context(target, dataset, split),
        predictions=predictions,
        rules=manifest.rules,
        history=target.history,
        images=pictures if show_images else None,
        audit=audit_summary(dataset),
    )


def predictions_table(
    dataset: PreparedDataset,
    split: pa.Table,
    rows: np.ndarray,
    class_logits: np.ndarray,
    temperature: float = 1.0,
    copies: np.ndarray | None = None,
) -> pa.Table:
    """Scored rows as `write_report` takes them, one row a cell, whatever scored them.

    Args:
        dataset, split: of the rows; where the split is of copies and these are not, it must
            hold one role of each.
        rows: (N,) dataset rows, in the order of the split.
        class_logits: (N, K-1) of them.
        temperature: divides them for the probabilities.
        copies: (N,) under `paper-literal`, which copy of the row was scored.
    """
    cells = dataset.cells.take(pa.array(rows))
    columns = ["uid", "subject", "group", "source", "source_image", "label"]
    columns += [
        name
        for name in sliced(cells.column_names)
        if dataset.cells[name].null_count < len(dataset.cells)
    ]
    if copies is not None:
        cells = cells.append_column("copy", pa.array(copies, pa.int64()))
        columns.append("copy")
    table = cells.select(columns).append_column("role", _roles(split, cells))
    for name, values in score_columns(class_logits, temperature, dataset.classes).items():
        table = table.append_column(name, values)
    return table


def score_columns(
    class_logits: np.ndarray, temperature: float, classes: ClassSet
) -> dict[str, pa.Array]:
    """Return the columns of predictions that hold scores.

    `logit` and `probability` are of the positive classes, null where there are none; of more than
    two classes there are also `class_logits`.

    Args:
        class_logits: (N, K-1).
        temperature: divides them for the probabilities.
        classes: the K classes.
    """
    logit = probability = pa.nulls(len(class_logits), pa.float64())
    if classes.positive:
        logit = pa.array(binary_log_odds(class_logits, classes))
        probability = pa.array(binary_probability(class_logits, temperature, classes))
    columns: dict[str, pa.Array] = {"logit": logit, "probability": probability}
    if len(classes) > 2:
        columns["class_logits"] = pa.array(list(class_logits), pa.list_(pa.float64()))
    return columns


def _roles(split: pa.Table, cells: pa.Table) -> pa.Array:
    """Return the role that a split gives each of `cells`, or each copy where `cells` are copies."""
    names = [name for name in ("uid", "copy") if name in cells.column_names]
    known = zip(*(split[name].to_pylist() for name in names), strict=True)
    role_of = dict(zip(known, split["role"].to_pylist(), strict=True))
    wanted = zip(*(cells[name].to_pylist() for name in names), strict=True)
    return pa.array([role_of[key] for key in wanted])


def split_of(target: EvaluationTarget, dataset: PreparedDataset, *, seen: bool = False) -> pa.Table:
    """Return the run's split; for a bare bundle the cells that it has not seen as `test`.

    Args:
        target: run or bundle.
        dataset: the run's, or one that a bundle is evaluated on.
        seen: of a bare bundle, all labelled, kept cells are `test`, as of one that does not say
            which cells made it.

    Raises:
        UserError: another dataset than the run's, or pixels that the bundle does not expect.
    """
    if target.run is None:
        check_pixels(target, dataset)
        if target.lineage is not None and not seen:
            return SeenCells(dataset.cells, target.lineage).split()
        cells = eligible(dataset.cells)
        role = pa.array(["test"] * len(cells), pa.string())
        return cells.select(["uid", "subject", "group"]).append_column("role", role)
    split = join(target.run, "split.parquet")
    advice = f"give that one, or take {target.bundle} instead of the run, on images stored alike"
    check_same_dataset(target.manifest.datasets, dataset, target.run, advice, split)
    return read_table(split)


def check_pixels(target: EvaluationTarget, dataset: PreparedDataset) -> None:
    """Raise UserError where a dataset has other classes or pixels than a bundle expects."""
    manifest = target.manifest
    if manifest.class_set != dataset.classes:
        raise DataError(
            f"{target.bundle}: answers with {manifest.class_set.described}, {dataset.location} has "
            f"{dataset.classes.described}; prepare the images with {manifest.class_set.options}"
        )
    if manifest.storage != dataset.storage:
        raise DataError(
            f"{target.bundle}: expects {manifest.storage.crop} crops stored at "
            f"{manifest.storage.size} px, {dataset.location} has {dataset.storage.crop} at "
            f"{dataset.storage.size}; prepare the images with "
            f"--size {manifest.storage.size} --crop {manifest.storage.crop}"
        )


def keep_results(target: EvaluationTarget, report: Report) -> None:
    """Write the test results of a run's own report into its bundle and the bundle's card."""
    bundle = open_bundle(target.bundle)
    derive_bundle(bundle, target.bundle, changes={"test": results_of(report)})


def audit_summary(dataset: PreparedDataset) -> dict[str, Any]:
    """Say what a report repeats of the dataset's audit, in words."""
    with bar("report: auditing the dataset", "cell") as progress:
        audit = known_audit(dataset, progress)
    largest = audit["largest_group"]
    places = {"all images": audit["shortcuts"]} | audit["shortcuts_by_source"]
    return {
        "identical images": audit["identical_images"],
        "of these under several subjects": audit["identical_images_across_subjects"],
        "sets of near-duplicate images": len(audit["near_duplicates"]),
        "largest group": f"{largest['group']} ({counted(largest['cells'], 'cell')})",
        "area under ROC of one property alone": {
            where: {name: decimal(found["auc"]) for name, found in own.items()}
            for where, own in places.items()
        },
        "images by size": [
            "{width} x {height} {format}, {source}: ".format(**size)
            + ", ".join(f"{count} {name}" for name, count in size["classes"].items())
            for size in audit["image_sizes"]
        ],
        "warnings": audit["warnings"],
    }
