"""The report of a run: report.json for machines, report.html for people, figures as PNG.

The page stands alone: figures are embedded in it, and it fetches nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leuk_ray.datasets.splits import EVALUATED_ROLES
from leuk_ray.evaluation.calibration import class_logits_of
from leuk_ray.evaluation.checklist import fill_checklist
from leuk_ray.evaluation.class_report import (
    ClassCells,
    binary_view,
    confidence_bands,
    confused_cells,
    refit_classes,
    worst_confusions,
)
from leuk_ray.evaluation.decided import (
    FixedFor,
    apply_bands,
    apply_points,
    classify_subjects,
    of_subjects,
    parts_of,
)
from leuk_ray.evaluation.decisions import (
    Decisions,
    fix_decisions,
    worst_subjects,
)
from leuk_ray.evaluation.deployed import (
    as_deployed,
    blast_percentages,
    call_by_sets,
    deployed_calls,
)
from leuk_ray.evaluation.differential import differentials, share_errors
from leuk_ray.evaluation.formats import json_ready
from leuk_ray.evaluation.guarantee import measure_sets
from leuk_ray.evaluation.intervals import BoolArray, FloatArray, GroupResamples, IntArray
from leuk_ray.evaluation.metric_intervals import class_intervals, class_resamples, metric_samples
from leuk_ray.evaluation.metrics import CLASSES, ECE_BINS, evaluate
from leuk_ray.evaluation.predictive import predictive_values
from leuk_ray.evaluation.probabilities import probability_intervals, refit
from leuk_ray.evaluation.published import beside_published
from leuk_ray.evaluation.report_model import FILE, Report, ReportContext, Scored
from leuk_ray.evaluation.report_page import Images, page, plot, sentence, uncertainty
from leuk_ray.evaluation.rules import DecisionRules
from leuk_ray.evaluation.slices import slices
from leuk_ray.evaluation.sources import by_source
from leuk_ray.evaluation.subjects import SubjectRow, check_predictions, per_subject
from leuk_ray.io.locations import Location
from leuk_ray.io.storage import directory_by_rename, refuse_existing, write_json, write_table
from leuk_ray.utils.html import save_figures
from leuk_ray.utils.wording import counted, counted_subjects

BOOTSTRAP: dict[str, Any] = {"seed": 0, "resamples": 2000}
MAX_ERRORS = 12
MAX_WORST_SUBJECTS = 5
_FIXED_COUNTS = ("cells", "num_all", "num_healthy", "num_subjects")


def write_report(
    directory: Location,
    *,
    run: ReportContext,
    predictions: pa.Table,
    rules: DecisionRules,
    history: Sequence[Mapping[str, Any]],
    images: Images | None,
    audit: Mapping[str, Any] | None,
) -> Report:
    """Write report.json, report.html, checklist.json, predictions.parquet and figures/*.png.

    All or nothing.

    Args:
        directory: where to write; must not exist.
        predictions: one row a cell: uid, subject (may be null), group, role, label (a number of
            `run.classes`), logit and probability of the positive classes (null where there are
            none); of more than two classes class_logits, (K-1,) log-odds against class 0; and
            source, where results are wanted by it; and reasons, where it is known why a bundle
            gives no answer. Rows of the role train are not looked at.
        rules: of the bundle, or of a run. Without `decisions` these are fixed on the rows of the
            role validation, where there are any. Of two classes subjects are counted without the
            cells that the abstain band leaves unanswered, as everywhere else; metrics of cells
            count all.
        history: one row an epoch, as `figures.training_figure` draws them.
        images: uids -> their pictures, (H, W, 3) each; None keeps every cell picture out.
        audit: what the dataset's audit found, simple values and lists, among them `warnings`, a
            list of sentences; None leaves it out.

    Raises:
        UserError: the directory exists.
        ValueError: the predictions lack a column or hold a value they must not.
    """
    refuse_existing(directory, "report")
    check_predictions(predictions, run.classes)
    roles = reversed(EVALUATED_ROLES)  # test first
    by_role = {
        role: call_by_sets(predictions.filter(pc.field("role") == role), rules.conformal)
        for role in roles
    }
    report = _report(run, by_role, rules, history, audit)
    tested = ClassCells.of(by_role["test"], run.classes, run.temperature, rules.threshold)
    plots = plot(report, tested, binary_view(by_role["test"], run.classes), images)
    with directory_by_rename(directory, new="report") as partial:
        report = report.model_copy(update={"figures": save_figures(plots, partial)})
        content = report.model_dump(mode="json")
        write_table(partial / "predictions.parquet", predictions)
        write_json(partial / FILE, content)
        write_json(partial / "checklist.json", content["checklist"])
        text = page(content, report.run.label, partial)
        (partial / "report.html").write_text(text, encoding="utf-8")
    return report


def _report(
    run: ReportContext,
    by_role: Mapping[str, pa.Table],
    rules: DecisionRules,
    history: Sequence[Mapping[str, Any]],
    audit: Mapping[str, Any] | None,
) -> Report:
    """Everything the report says but its figures, without NaN and fit for JSON."""
    classes, several = run.classes, len(run.classes) > 2
    threshold, conformal = rules.threshold, rules.conformal
    cells = {
        role: ClassCells.of(table, classes, run.temperature, threshold)
        for role, table in by_role.items()
    }
    tested = cells["test"]
    resampled = class_resamples(
        tested.label,
        tested.table["group"].to_pylist(),
        classes,
        withheld=run.no_intervals,
        **BOOTSTRAP,
    )
    evaluations = {
        role: own.evaluate(classes) if own.label.size else None for role, own in cells.items()
    }
    confusions = worst_confusions(evaluations["test"], classes.names)
    view = {role: binary_view(table, classes) for role, table in by_role.items()}
    test, validation = view["test"], view["validation"]
    metrics = {
        role: evaluate(table["label"], table["probability"], threshold) if table.num_rows else None
        for role, table in view.items()
    }
    intervals: dict[str, Any] = {}
    if test.num_rows:
        label, stated = _labels_and_logits(test)[0], test["probability"].to_numpy()
        samples = metric_samples(resampled, label, stated, threshold)
        intervals = {name: resampled.interval(values) for name, values in samples.items()}
        intervals |= probability_intervals(resampled, label, stated)
    subjects = per_subject(test, threshold, rules.abstain_band)
    called = deployed_calls(tested.table, tested.called)
    found = differentials(tested.table, tested.label, called, classes.names) if several else []
    parts = parts_of(cells["validation"].table, tested.table)
    if rules.decisions is not None:
        fixed = [FixedFor(rules.decisions, np.ones(len(test), bool))]
    else:
        fixed = [
            FixedFor(_fix(validation.filter(pa.array(fixing)), run, rules, parts), own)
            for fixing, own in parts
            if validation.num_rows
        ]
    values = json_ready(
        {
            "run": run,
            "threshold": threshold if classes.positive else None,
            "scored": {role: _scored(table) for role, table in by_role.items()},
            "classes": evaluations,
            "class_intervals": class_intervals(resampled, tested.label, tested.called, classes)
            if tested.label.size
            else {},
            "worst_confusions": confusions,
            "confidence": confidence_bands(
                cells["validation"], tested, run.temperature, resampled, rules.min_confidence, parts
            )
            if several and tested.label.size
            else [],
            "metrics": metrics,
            "bootstrap": BOOTSTRAP,
            "calibration_bins": ECE_BINS,
            "intervals": intervals,
            "by_source": by_source(
                test, threshold, run.no_intervals, classes.binary_names, **BOOTSTRAP
            ),
            "refitted": refit_classes(cells["validation"], tested, run.temperature, parts)
            if several
            else refit(
                _labels_and_logits(validation), _labels_and_logits(test), run.temperature, parts
            ),
            "deployed": as_deployed(tested.table, tested.label, called, len(classes), resampled),
            "blast_percentages": blast_percentages(
                tested.table,
                classes.is_positive[tested.label],
                classes.is_positive[called],
                rules.error_rates,
            ),
            "guarantee": measure_sets(
                conformal, class_logits_of(tested.table), tested.label, classes.names, resampled
            )
            if conformal is not None and tested.label.size
            else None,
            "slices": slices(
                tested.table, tested.called == tested.label, run.no_intervals, **BOOTSTRAP
            ),
            "predictive_values": predictive_values(*_labels_and_calls(test, threshold), resampled)
            if test.num_rows
            else [],
            "decided": _decided(fixed, run, test, threshold, resampled, subjects),
            "differentials": found,
            "share_errors": share_errors(found),
            "subjects": subjects,
            "worst_subjects": worst_subjects(subjects, MAX_WORST_SUBJECTS),
            "published": beside_published(run.protocol, run.test_set),
            "worst_errors": confused_cells(tested, confusions, classes.names)
            if several
            else _worst_errors(test, threshold),
            "history": history,
            "audit": audit,
        }
    )
    report = Report(**values)
    report = report.model_copy(update={"source": _source(report)})
    said = {"sentence": sentence(report), "uncertainty": uncertainty(report)}
    report = report.model_copy(update=said)
    checklist = fill_checklist(report.model_dump(mode="json"))
    return report.model_copy(update={"checklist": checklist})


def _labels_and_logits(table: pa.Table) -> tuple[IntArray, FloatArray]:
    return table["label"].to_numpy().astype(np.int64), table["logit"].to_numpy().astype(np.float64)


def _labels_and_calls(table: pa.Table, threshold: float) -> tuple[IntArray, BoolArray]:
    return _labels_and_logits(table)[0], table["probability"].to_numpy() >= threshold


def _fix(
    validation: pa.Table,
    run: ReportContext,
    rules: DecisionRules,
    parts: Sequence[object],
) -> Decisions:
    return fix_decisions(
        *_labels_and_logits(validation),
        per_subject(validation, rules.threshold, rules.abstain_band),
        temperature=run.temperature,
        threshold=rules.threshold,
        source="validation cells of the run"
        if len(parts) == 1
        else "validation cells of the folds' runs (those of each fold for its own test cells)",
    )


def _decided(
    fixed: Sequence[FixedFor],
    run: ReportContext,
    test: pa.Table,
    threshold: float,
    resampled: GroupResamples,
    subjects: Sequence[SubjectRow],
) -> dict[str, Any] | None:
    """Apply what was fixed elsewhere to the test cells; None without the one or the other."""
    if not fixed or not test.num_rows:
        return None
    label, logit = _labels_and_logits(test)
    stated = test["probability"].to_numpy()
    limits = of_subjects(fixed, test, subjects)
    every = [one.decisions for one in fixed]
    counts = {name: sum(getattr(one, name) for one in every) for name in _FIXED_COUNTS}
    return {
        "fixed_on": {"source": every[0].source, **counts}
        | {"caution": next((one.caution for one in every if one.caution), "")},
        "points": apply_points(fixed, label, logit, run.temperature, resampled),
        "subjects": classify_subjects(subjects, limits) if limits is not None else None,
        "bands": apply_bands(fixed, label, stated, threshold, resampled)
        if len(run.classes) == 2
        else [],
    }


def _scored(table: pa.Table) -> Scored:
    """Rows of a role, and how many cells, subjects and groups they come from."""
    subjects = table["subject"].to_pylist()
    return {
        "rows": table.num_rows,
        "cells": len(set(table["uid"].to_pylist())),
        "subjects": len({name for name in subjects if name is not None}),
        "groups": len(set(table["group"].to_pylist())),
        "rows_without_subject": subjects.count(None),
    }


def _worst_errors(table: pa.Table, threshold: float) -> list[dict[str, Any]]:
    """Return the cells called wrong with most confidence, worst first, each uid once."""

    def rank(row: dict[str, Any]) -> tuple[float, str]:
        # By logit: the probabilities of confident errors may all round to 0 or 1.
        return row["logit"] if row["label"] == 0 else -row["logit"], row["uid"]

    rows = table.select(["uid", "subject", "label", "logit", "probability"]).to_pylist()
    wrong = [row for row in rows if (row["probability"] >= threshold) != (row["label"] == 1)]
    worst: dict[str, dict[str, Any]] = {}
    for row in sorted(wrong, key=rank, reverse=True):
        worst.setdefault(row["uid"], {**row, "label": CLASSES[row["label"]]})
    return list(worst.values())[:MAX_ERRORS]


def _source(report: Report) -> str:
    """Say what the test cells are known to come from, counted."""
    scored = report.scored["test"]
    groups = counted(scored["groups"], "group")
    if scored["subjects"]:
        return f"{counted_subjects(scored['subjects'], scored['rows_without_subject'])} in {groups}"
    return "unknown patients" if report.run.no_intervals else groups
