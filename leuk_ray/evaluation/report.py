"""The report of a run: report.json for machines, report.html for people, figures as PNG.

The page stands alone: figures are embedded in it, and it fetches nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from leuk_ray.datasets.splits import EVALUATED_ROLES
from leuk_ray.evaluation import figures
from leuk_ray.evaluation.checklist import fill_checklist
from leuk_ray.evaluation.decisions import (
    Decisions,
    apply_bands,
    apply_points,
    classify_subjects,
    fix_decisions,
    worst_subjects,
)
from leuk_ray.evaluation.deployed import as_deployed
from leuk_ray.evaluation.formats import count, decimal, json_ready, percent, readable, verbatim
from leuk_ray.evaluation.intervals import FloatArray, GroupResamples, IntArray, Interval
from leuk_ray.evaluation.metric_intervals import metric_samples
from leuk_ray.evaluation.metrics import CLASSES, ECE_BINS, Confusion, evaluate
from leuk_ray.evaluation.probabilities import probability_intervals, refit
from leuk_ray.evaluation.published import beside_published
from leuk_ray.evaluation.report_model import FILE, Report, ReportContext, Scored
from leuk_ray.evaluation.sources import apart, by_source
from leuk_ray.evaluation.subjects import SubjectRow, check_predictions, per_subject
from leuk_ray.io.locations import Location
from leuk_ray.io.storage import directory_by_rename, refuse_existing, write_json, write_table
from leuk_ray.utils.html import page_templates, save_figures
from leuk_ray.utils.wording import counted, counted_subjects

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Images = Callable[[list[str]], list[npt.NDArray[np.uint8]]]

BOOTSTRAP = {"seed": 0, "resamples": 2000}
MAX_ERRORS = 12
MAX_WORST_SUBJECTS = 5
_FIXED_COUNTS = ("cells", "num_all", "num_healthy", "num_subjects")


def write_report(
    directory: Location,
    *,
    run: ReportContext,
    predictions: pa.Table,
    history: list[dict[str, Any]],
    threshold: float,
    images: Images | None,
    audit: dict[str, Any] | None,
    decisions: Decisions | None = None,
    band: tuple[float, float] | None = None,
) -> Report:
    """Write report.json, report.html, checklist.json, predictions.parquet and figures/*.png.

    All or nothing.

    Args:
        directory: where to write; must not exist.
        predictions: one row a cell: uid, subject (may be null), group, role, label (1 ALL,
            0 healthy), logit, probability of ALL; and source, where results are wanted by it, and
            reasons, where it is known why a bundle gives no answer. Rows of the role train are
            not looked at.
        history: one row an epoch, as `figures.training_figure` draws them.
        threshold: a cell is called ALL from this probability on.
        images: uids -> their pictures, (H, W, 3) each; None keeps every cell picture out.
        audit: what the dataset's audit found, simple values and lists, among them `warnings`, a
            list of sentences; None leaves it out.
        decisions: fixed elsewhere, as a calibrated bundle has them; None fixes them on the rows
            of the role validation, where there are any.
        band: the bundle's abstain band: subjects are counted without the cells it leaves
            unanswered, as everywhere else. Metrics of cells count all.

    Raises:
        UserError: the directory exists.
        ValueError: the predictions lack a column or hold a value they must not.
    """
    refuse_existing(directory, "report")
    check_predictions(predictions)
    roles = reversed(EVALUATED_ROLES)  # test first
    by_role = {role: predictions.filter(pc.field("role") == role) for role in roles}
    report = _report(run, by_role, history, threshold, audit, decisions, band)
    plots = _plot(report, by_role["test"], images)
    with directory_by_rename(directory, new="report") as partial:
        report = report.model_copy(update={"figures": save_figures(plots, partial)})
        content = report.model_dump(mode="json")
        write_table(partial / "predictions.parquet", predictions)
        write_json(partial / FILE, content)
        write_json(partial / "checklist.json", content["checklist"])
        page = _page(content, report.run.label, partial)
        (partial / "report.html").write_text(page, encoding="utf-8")
    return report


def _report(
    run: ReportContext,
    by_role: Mapping[str, pa.Table],
    history: Sequence[Mapping[str, Any]],
    threshold: float,
    audit: Mapping[str, Any] | None,
    decisions: Decisions | None,
    band: tuple[float, float] | None,
) -> Report:
    """Everything the report says but its figures, without NaN and fit for JSON."""
    test, validation = by_role["test"], by_role["validation"]
    metrics = {
        role: evaluate(table["label"], table["probability"], threshold) if table.num_rows else None
        for role, table in by_role.items()
    }
    label, stated = test["label"].to_numpy().astype(np.int64), test["probability"].to_numpy()
    group = test["group"].to_pylist()
    resampled = GroupResamples.sample(label, group, **BOOTSTRAP, withheld=run.no_intervals)
    intervals: dict[str, Any] = {}
    if test.num_rows:
        samples = metric_samples(resampled, label, stated, threshold)
        intervals = {name: resampled.interval(values) for name, values in samples.items()}
        intervals |= probability_intervals(resampled, label, stated)
    subjects = per_subject(test, threshold, band)
    if decisions is None and validation.num_rows:
        decisions = fix_decisions(
            *_labels_and_logits(validation),
            per_subject(validation, threshold, band),
            temperature=run.temperature,
            threshold=threshold,
            source="validation cells of the run",
        )
    values = json_ready(
        {
            "run": run,
            "threshold": threshold,
            "scored": {role: _scored(table) for role, table in by_role.items()},
            "metrics": metrics,
            "bootstrap": BOOTSTRAP,
            "calibration_bins": ECE_BINS,
            "intervals": intervals,
            "by_source": by_source(test, threshold, run.no_intervals, **BOOTSTRAP),
            "refitted": refit(
                _labels_and_logits(validation), _labels_and_logits(test), run.temperature
            ),
            "deployed": as_deployed(test, threshold, resampled),
            "decided": _decided(decisions, run, test, threshold, resampled, subjects),
            "subjects": subjects,
            "worst_subjects": worst_subjects(subjects, MAX_WORST_SUBJECTS),
            "published": beside_published(run.protocol, run.test_set),
            "worst_errors": _worst_errors(test, threshold),
            "history": history,
            "audit": audit,
        }
    )
    report = Report(**values)
    report = report.model_copy(update={"source": _source(report)})
    said = {"sentence": _sentence(report), "uncertainty": _uncertainty(report.intervals)}
    report = report.model_copy(update=said)
    checklist = fill_checklist(report.model_dump(mode="json"))
    return report.model_copy(update={"checklist": checklist})


def _labels_and_logits(table: pa.Table) -> tuple[IntArray, FloatArray]:
    return table["label"].to_numpy().astype(np.int64), table["logit"].to_numpy().astype(np.float64)


def _decided(
    decisions: Decisions | None,
    run: ReportContext,
    test: pa.Table,
    threshold: float,
    resampled: GroupResamples,
    subjects: Sequence[SubjectRow],
) -> dict[str, Any] | None:
    """What was fixed elsewhere, applied to the test cells; None without the one or the other."""
    if decisions is None or not test.num_rows:
        return None
    label, logit = _labels_and_logits(test)
    stated = test["probability"].to_numpy()
    called = None
    if decisions.blast_fraction is not None and subjects:
        called = classify_subjects(subjects, decisions.blast_fraction)
    return {
        "fixed_on": decisions.model_dump(include={"source", *_FIXED_COUNTS})
        | {"caution": decisions.caution},
        "points": apply_points(decisions, label, logit, run.temperature, resampled),
        "subjects": called,
        "bands": apply_bands(decisions, label, stated, threshold, resampled),
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
    """The cells called wrong with most confidence, worst first, each uid once."""

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
    """What the test cells are known to come from, counted."""
    scored = report.scored["test"]
    groups = counted(scored["groups"], "group")
    if scored["subjects"]:
        return f"{counted_subjects(scored['subjects'], scored['rows_without_subject'])} in {groups}"
    return "unknown patients" if report.run.no_intervals else groups


def _sentence(report: Report) -> str:
    """The result in one breath, with its counts."""
    tested = report.tested
    if tested is None:
        return "No test cells were scored, so there is no result."
    label = report.run.label
    counts = Confusion(**tested["confusion"])
    area, interval = tested["auc"]["value"], report.intervals["auc"]
    ranking = "Only one class occurs, so there is no area under ROC."
    if area is not None:
        bounds = f"95% interval {decimal(interval.low)} to {decimal(interval.high)}"
        if interval.note:
            bounds += f" ({interval.note.partition(':')[0]})"  # how few groups there are
        stated = interval.note if interval.low is None else bounds
        ranking = f"Area under ROC {decimal(area)}; {stated}."
    right = counts.tp + counts.tn
    return (
        f"{label + ': ' if label else ''}{right:,} of {counts.cells:,} test cells from "
        f"{report.source} are classified correctly ({percent(tested['accuracy']['value'])}): "
        f"{counts.tp:,} of {counts.positives:,} ALL and {counts.tn:,} of {counts.negatives:,} "
        f"healthy. {ranking}{apart(report.by_source)}"
    )


def _uncertainty(intervals: Mapping[str, Interval]) -> str:
    """How intervals were made, or why there are none; empty without test cells."""
    if not intervals:
        return ""
    area = intervals["auc"]
    if not area.resamples:
        return area.note
    return (
        f"Student's t on log-odds, whole groups left out in turn, {area.groups_positive} ALL and "
        f"{area.groups_negative} healthy groups"
    )


def _plot(report: Report, test: pa.Table, images: Images | None) -> dict[str, Figure]:
    """Plot every figure that there are data for, by file name."""
    stamp = figures.Stamp(report.run.synthetic, report.run.label)
    threshold, tested = report.threshold, report.tested
    plots: dict[str, Figure] = {}
    if tested is not None:
        label, probability = test["label"].to_numpy(), test["probability"].to_numpy()
        cells = (label, probability, threshold)
        plots["confusion"] = figures.confusion_figure(Confusion(**tested["confusion"]), stamp)
        if tested["auc"]["value"] is not None:
            area = f"area {decimal(tested['auc']['value'])}"
            plots["roc"] = figures.roc_figure(*cells, area, stamp)
            area = f"average precision {decimal(tested['average_precision']['value'])}"
            plots["precision_recall"] = figures.precision_recall_figure(*cells, area, stamp)
        plots["calibration"] = figures.calibration_figure(*cells, stamp)
        if report.subjects:
            subject = test["subject"].to_pylist()
            plots["subjects"] = figures.subject_figure(report.subjects, subject, *cells, stamp)
    if report.history:
        best_epoch = report.run.stopping.get("best_epoch")
        plots["training"] = figures.training_figure(report.history, best_epoch, stamp)
    errors = report.worst_errors
    if images is not None and errors:
        captions = [(row["uid"], row["probability"], row["label"]) for row in errors]
        pictures = images([row["uid"] for row in errors])
        plots["errors"] = figures.contact_sheet(pictures, captions, stamp)
    return plots


def _dataset_rows(counts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Counts of a dataset as rows; no subject is one that is not known."""
    unknown = {("subjects", "0"): "0 (unknown)"}
    return [(name, unknown.get((name, text), text)) for name, text in readable(counts)]


def _page(content: Mapping[str, Any], label: str, directory: Path) -> str:
    environment = page_templates(Path(__file__).parent)
    for form in (count, percent, decimal, verbatim, readable):
        environment.filters[form.__name__] = form
    interval_notes: dict[str, list[str]] = {}
    for key, interval in content["intervals"].items():
        if interval["note"]:
            interval_notes.setdefault(interval["note"], []).append(key)
    embedded = {
        name: base64.b64encode((directory / path).read_bytes()).decode()
        for name, path in content["figures"].items()
    }
    template = environment.get_template("report.html.j2")
    return template.render(
        **content,
        embedded=embedded,
        interval_notes=interval_notes,
        label=label,
        counted=counted,
        dataset_rows=_dataset_rows(content["run"]["dataset_counts"]),
    )
