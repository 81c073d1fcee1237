"""Evaluate a bundle on a dataset: every row of a role scored once, then the report."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.splits import (
    copies_with_role,
    rows_with_role,
)
from leuk_ray.evaluation.calibration import class_logits_of
from leuk_ray.evaluation.report_model import Report
from leuk_ray.io.locations import Location, join
from leuk_ray.io.storage import exists, read_table, refuse_existing
from leuk_ray.runs.report import report_on, split_of
from leuk_ray.runs.seen import SeenCells
from leuk_ray.runs.target import EvaluationTarget
from leuk_ray.utils.errors import ConfigError, DataError
from leuk_ray.workflows.pool import DEFAULT, Pool, answer_rows, score_rows


def evaluate(
    target: EvaluationTarget,
    dataset: PreparedDataset,
    out: Location,
    *,
    roles: tuple[str, ...] = ("test",),
    seen: bool = False,
    pool: Pool = DEFAULT,
    show_images: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Score the rows of `roles` and report on them in the folder `out`.

    A report on a run's test rows also holds its validation rows, on which decisions are fixed.

    Args:
        target: with a run, rows and roles come from its split; a bare bundle is evaluated on
            cells whose groups did not train, validate or calibrate it or its members, where it
            records that; else on all labelled, kept cells.
        dataset: the run's dataset, or another one for a bare bundle.
        out: report folder to make; predictions.parquet lies in it.
        roles: which rows to score.
        seen: evaluate a bare bundle on all labelled, kept cells, also those that made it; the
            report is marked with what they did.
        pool: where to score.
        show_images: False keeps every picture of a cell out of the report.
        progress: called with (cells scored, cells in all).

    Raises:
        UserError: another dataset than the run's, nothing to evaluate, no cell that the bundle
            has not seen, or `out` exists.
    """
    refuse_existing(out, "report")
    if target.run is not None and seen:
        raise ConfigError(f"--seen: is for a bundle without its run; give {target.bundle}")
    split = split_of(target, dataset, seen=seen)
    if copies_with_role(split, roles) is not None:
        raise ConfigError(
            f"{target.run}: paper-literal tests on augmented copies, which training scores; read "
            "its own report/, or evaluate its bundle/ on the cells as they are"
        )
    rows = rows_with_role(dataset.cells, split, roles)
    if not len(rows) and target.run is None and roles == ("test",) and len(split):
        assert target.lineage is not None
        raise DataError(
            f"{target.bundle}: has seen the groups of all cells it could be evaluated on: "
            f"{SeenCells(dataset.cells, target.lineage).counts}; give --data with other cells, or "
            "add --seen for a report that is marked"
        )
    if not len(rows) or (target.run is None and roles != ("test",)):
        raise DataError(
            f"{dataset.location}: no labelled cell has the role {' or '.join(roles)}: there is "
            "nothing to evaluate; for answers without labels give the image files to "
            "`leuk-ray predict`"
        )
    if target.manifest.scope is not None:  # calibrated: evaluated as it is deployed
        rows, scores, reasons = answer_rows(target.bundle, dataset, rows, pool, progress)
        return report_on(
            target, dataset, split, rows, scores, out, reasons=reasons, show_images=show_images
        )
    known = _known_validation(target, dataset, split) if roles == ("test",) else None
    if known is None and target.run is not None and roles == ("test",):
        rows = rows_with_role(dataset.cells, split, ("validation", "test"))
    rows, scores = score_rows(target.bundle, dataset, rows, pool, progress)
    if known is not None:
        rows, scores = np.concatenate([known[0], rows]), np.concatenate([known[1], scores])
        order = np.argsort(rows)
        rows, scores = rows[order], scores[order]
    return report_on(target, dataset, split, rows, scores, out, show_images=show_images)


def _known_validation(
    target: EvaluationTarget, dataset: PreparedDataset, split: pa.Table
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return validation rows (N,) and class logits (N, K-1) that the run's own report holds.

    What is to be fixed on validation needs them, and training has scored them with the weights
    of the bundle. None where the report is not there: then they are scored with the test rows.
    """
    table = join(target.run, "report", "predictions.parquet") if target.run is not None else None
    if table is None or not exists(table):
        return None
    scored = read_table(table).filter(pc.field("role") == "validation").sort_by("uid")
    rows = rows_with_role(dataset.cells, split, ("validation",))
    uids = dataset.cells["uid"].take(pa.array(rows)).to_pylist()
    return (rows, class_logits_of(scored)) if scored["uid"].to_pylist() == uids else None
