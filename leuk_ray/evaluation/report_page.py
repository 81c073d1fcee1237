"""What a report says and shows of its numbers: sentences, figures, and the page."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from leuk_ray.datasets.classes import ClassSet
from leuk_ray.evaluation import figures
from leuk_ray.evaluation.class_report import ClassCells, class_sentence
from leuk_ray.evaluation.confusion_figure import confusion_figure, shortened
from leuk_ray.evaluation.formats import count, decimal, percent, readable, verbatim
from leuk_ray.evaluation.metrics import CLASSES, Confusion, Evaluation
from leuk_ray.evaluation.report_model import Report
from leuk_ray.evaluation.sources import apart
from leuk_ray.utils.html import page_templates
from leuk_ray.utils.wording import counted, listed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Images = Callable[[list[str]], list[npt.NDArray[np.uint8]]]
Plots = dict[str, "Figure"]


def sentence(report: Report) -> str:
    """Say the result in one breath, with its counts."""
    tested = report.tested_classes
    if tested is None:
        return "No test cells were scored, so there is no result."
    label, right = report.run.label, tested["accuracy"]
    opening = (
        f"{label + ': ' if label else ''}{right['numerator']:,} of {tested['cells']:,} test cells "
        f"from {report.source} "
    )
    view = _binary_sentence(report) + _deployed_sentence(report)
    if len(report.run.classes) > 2:
        return opening + class_sentence(tested, report.class_intervals) + view
    return f"{opening}are classified correctly ({percent(right['value'])}): {view}"


def _deployed_sentence(report: Report) -> str:
    """How many cells a calibrated bundle answers for, and how many rightly; else empty."""
    if report.deployed is None:
        return ""
    given, right = report.deployed["answered"], report.deployed["accuracy"]
    how = "the most likely class" if len(report.run.classes) > 2 else "the threshold alone"
    opening = (
        f" That counts every cell, by {how}. As deployed the bundle answers for "
        f"{given['numerator']:,} of them ({percent(given['value'])})"
    )
    if not given["numerator"]:
        return f"{opening}."
    return f"{opening}, {right['numerator']:,} correctly ({percent(right['value'])})."


def _binary_sentence(report: Report) -> str:
    """Return the binary view with its counts; empty where there is none."""
    tested = report.tested
    if tested is None:
        return ""
    counts = Confusion(**tested["confusion"])
    area, interval = tested["auc"]["value"], report.intervals["auc"]
    ranking = "Only one class occurs, so there is no area under ROC."
    if area is not None:
        bounds = f"95% interval {decimal(interval.low)} to {decimal(interval.high)}"
        if interval.note:
            bounds += f" ({interval.note.partition(':')[0]})"  # how few groups there are
        stated = interval.note if interval.low is None else bounds
        ranking = f"Area under ROC {decimal(area)}; {stated}."
    negative, positive = report.run.classes.binary_names
    if len(report.run.classes) > 2:
        return (
            f" {positive} against other classes, from a probability of {report.threshold:.3g} on: "
            f"{counts.tp:,} of {counts.positives:,} {positive} cells found, {counts.tn:,} of "
            f"{counts.negatives:,} others cleared. {ranking}{apart(report.by_source)}"
        )
    return (
        f"{counts.tp:,} of {counts.positives:,} {positive} and {counts.tn:,} of "
        f"{counts.negatives:,} {negative}. {ranking}{apart(report.by_source)}"
    )


def uncertainty(report: Report) -> str:
    """Say how intervals were made, or why there are none; empty without test cells."""
    if not report.class_intervals:
        return ""
    accuracy = report.class_intervals["accuracy"]
    if not accuracy.resamples:
        few = report.history and not report.run.no_intervals  # of a run, not of a bundle
        return accuracy.note + ("; `leuk-ray crossval` tests every patient in turn" if few else "")
    groups = counted(report.scored["test"]["groups"], "group")
    if accuracy.groups_positive is not None:
        negative, positive = report.run.classes.binary_names
        groups = (
            f"{accuracy.groups_positive} {positive} and "
            f"{accuracy.groups_negative} {negative} groups"
        )
    return f"Student's t on log-odds, whole groups left out in turn, {groups}"


def plot(report: Report, tested: ClassCells, view: pa.Table, images: Images | None) -> Plots:
    """Plot every figure that there are data for, by file name.

    Args:
        report: without its figures.
        tested, view: the test cells, and their binary view.
        images: uids -> their pictures.
    """
    classes = report.run.classes
    stamp = figures.Stamp(report.run.synthetic, report.run.label, classes.binary_names)
    plots: Plots = {}
    if report.tested is not None:
        plots |= _binary_plots(report, report.tested, view, stamp)
    if len(classes) > 2 and report.tested_classes is not None:
        matrix = report.tested_classes["confusion"]
        colors = [
            figures.COLORS["ALL"] if positive else figures.INK for positive in classes.is_positive
        ]
        plots["confusion"] = confusion_figure(matrix, classes.names, stamp, colors)
        right = (tested.called == tested.label).astype(np.int64)
        sure = tested.probabilities.max(axis=1)
        plots["calibration"] = figures.calibration_figure(right, sure, None, stamp)
    if report.history:
        best_epoch = report.run.stopping.get("best_epoch")
        plots["training"] = figures.training_figure(report.history, best_epoch, stamp)
    errors = report.worst_errors
    if images is not None and errors:
        pictures = images([row["uid"] for row in errors])
        captions = [_caption(row, classes) for row in errors]
        plots["errors"] = figures.contact_sheet(pictures, captions, stamp)
    return plots


def _binary_plots(
    report: Report, tested: Evaluation, view: pa.Table, stamp: figures.Stamp
) -> Plots:
    label, probability = view["label"].to_numpy(), view["probability"].to_numpy()
    assert report.threshold is not None, "some class is positive"
    cells, plots = (label, probability, report.threshold), {}
    if len(report.run.classes) == 2:
        counts = Confusion(**tested["confusion"])
        matrix = [[counts.tp, counts.fn], [counts.fp, counts.tn]]
        colors = [figures.COLORS["ALL"], figures.COLORS["healthy"]]
        plots["confusion"] = confusion_figure(matrix, stamp.names[::-1], stamp, colors)
        plots["calibration"] = figures.calibration_figure(*cells, stamp)
    if tested["auc"]["value"] is not None:
        area = f"area {decimal(tested['auc']['value'])}"
        plots["roc"] = figures.roc_figure(*cells, area, stamp)
        area = f"average precision {decimal(tested['average_precision']['value'])}"
        plots["precision_recall"] = figures.precision_recall_figure(*cells, area, stamp)
    if report.subjects:
        subject = view["subject"].to_pylist()
        plots["subjects"] = figures.subject_figure(report.subjects, subject, *cells, stamp)
    return plots


def _caption(error: Mapping[str, Any], classes: ClassSet) -> tuple[str, str, str]:
    """uid, text and colour under the picture of a cell called wrong."""
    if len(classes) > 2:
        truth, called = (shortened(error[key], 20) for key in ("label", "called"))
        text = f"truth {truth}\ncalled {called} {error['probability']:.3f}"
        return error["uid"], text, figures.INK
    truth = classes.names[CLASSES.index(error["label"])]
    text = f"p({classes.names[1]}) {error['probability']:.3f} · truth {truth}"
    return error["uid"], text, figures.COLORS[error["label"]]


def _dataset_rows(counts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return counts of a dataset as rows; no subject is one that is not known."""
    unknown = {("subjects", "0"): "0 (unknown)"}
    return [(name, unknown.get((name, text), text)) for name, text in readable(counts)]


def _notes(intervals: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the notes of intervals, and which of them have each."""
    out: dict[str, list[str]] = {}
    for key, interval in intervals.items():
        if interval["note"]:
            out.setdefault(interval["note"], []).append(key)
    return out


def page(content: Mapping[str, Any], label: str, directory: Path) -> str:
    """Render the page that stands alone; its figures lie in the directory.

    Args:
        content: what report.json holds.
        label: see `ReportContext.label`.
        directory: of the report.
    """
    environment = page_templates(Path(__file__).parent)
    for form in (count, percent, decimal, verbatim, readable, listed):
        environment.filters[form.__name__] = form
    classes = ClassSet(**content["run"]["classes"])
    embedded = {
        name: base64.b64encode((directory / path).read_bytes()).decode()
        for name, path in content["figures"].items()
    }
    template = environment.get_template("report.html.j2")
    return template.render(
        **content,
        several=len(classes) > 2,
        binary=bool(classes.positive),
        names=dict(zip(CLASSES, classes.binary_names, strict=True)) | {"mixed": "mixed"},
        embedded=embedded,
        interval_notes=_notes(content["intervals"]),
        class_notes=_notes(content["class_intervals"]) if len(classes) > 2 else {},
        label=label,
        counted=counted,
        dataset_rows=_dataset_rows(content["run"]["dataset_counts"]),
    )
